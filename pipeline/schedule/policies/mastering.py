"""Attention to what is learnable now and not yet mastered.

Willems, Lahlou and Bengio, "Mastering Rate based Curriculum Learning" (arXiv 2008.06456), with validation losses in
place of returns. Per dataset c, from the last `window` evaluations: performance is minus the loss; its mastering rate
M_c is 0 at the worst and 1 at the best performance expected or seen; its learning progress is the slope of its
performance. With A_c all that c rests on, directly or not, and U_c what rests directly on c,

    a_c = min M(A_c)^power * ((1 - potential) * |slope_c| / max |slope| + potential * (1 - M_c)) * (1 - min M(U_c))

and then, last datasets first, each gives a part of its attention to its predecessors and a part to its successors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np

from pipeline.config.schedule import MasteringConfig
from pipeline.schedule.shares import Shares
from pipeline.schedule.state import CurvesByDataset

ROUNDING = 1e-9  # relative


@dataclass(frozen=True)
class Prerequisites:
    """Who rests on whom. `order` has every dataset after all that it rests on."""

    order: tuple[str, ...]
    before: dict[str, tuple[str, ...]]
    after: dict[str, tuple[str, ...]]
    ancestors: dict[str, frozenset[str]]

    @classmethod
    def of(cls, datasets: Sequence[str], requires: Mapping[str, Sequence[str]]) -> Prerequisites:
        """`requires` has no circle (the plan has checked it)."""
        before = {name: tuple(sorted(requires.get(name, ()))) for name in sorted(datasets)}
        order = tuple(TopologicalSorter(before).static_order())
        ancestors: dict[str, frozenset[str]] = {}
        for name in order:
            ancestors[name] = frozenset(before[name]).union(*(ancestors[each] for each in before[name]))
        after = {name: tuple(each for each in before if name in before[each]) for name in before}
        return cls(order, before, after, ancestors)


def mastering_rates(losses: CurvesByDataset, config: MasteringConfig) -> dict[str, float]:
    """Dataset -> 0 (at the worst loss, the first as a rule) to 1 (at the loss to reach, or the best window seen)."""
    rates = {}
    for name, values in losses.items():
        curve = np.array([value for value in values if value is not None])
        if not curve.size:
            rates[name] = 0.0
            continue
        window = min(config.window, len(curve))
        means = np.convolve(curve, np.full(window, 1 / window), mode="valid")
        worst = max(float(curve[0]), float(means.max()))
        best = min(config.targets.get(name, config.mastered_at * float(curve[0])), float(means.min()))
        rates[name] = float(np.clip((worst - means[-1]) / (worst - best), 0, 1)) if worst > best else 1.0
    return rates


def learning_progress(losses: CurvesByDataset, config: MasteringConfig) -> dict[str, float]:
    """Dataset -> absolute slope of the last `window` losses per evaluation; 0 with fewer than two."""
    progress = {}
    for name, values in losses.items():
        curve = np.array([value for value in values[-config.window :] if value is not None])
        slope = abs(float(np.polyfit(np.arange(len(curve)), curve, 1)[0])) if len(curve) > 1 else 0.0
        # Attention goes by slopes relative to the steepest: rounding must not pass for progress where all is still.
        progress[name] = slope if slope > ROUNDING * float(np.abs(curve).max(initial=0.0)) else 0.0
    return progress


def attention(
    rates: Mapping[str, float], progress: Mapping[str, float], graph: Prerequisites, config: MasteringConfig
) -> Shares:
    """Dataset -> attention, not normalised; all zero when everything is mastered and still."""
    fastest = max(progress.values(), default=0.0) or 1.0
    found: Shares = {}
    for name in graph.order:
        ready = min((rates[each] for each in graph.ancestors[name]), default=1.0) ** config.power
        needed = 1 - min((rates[each] for each in graph.after[name]), default=0.0)
        to_learn = (1 - config.potential) * progress[name] / fastest + config.potential * (1 - rates[name])
        found[name] = ready * to_learn * needed
    for name in reversed(graph.order):
        for neighbours, part in (
            (graph.before[name], config.to_predecessors),
            (graph.after[name], config.to_successors),
        ):
            if neighbours:
                given = found[name] * part
                found[name] -= given
                for each in neighbours:
                    found[each] += given / len(neighbours)
    return found
