"""What the tables say, in sentences that claim no more than the seeds allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.compare import SPEED_METRICS, Comparison, affinity_arms, is_random, speed_ups
from pipeline.report.cost import Judgement
from pipeline.report.runs import Experiment
from pipeline.report.stats import MIN_PAIRS, summarize
from pipeline.report.table import percent
from pipeline.report.tables import headline_differences


def summary_sentences(experiment: Experiment, judgement: Judgement, comparisons: Sequence[Comparison]) -> list[str]:
    """The head of the report: size and weight of the evidence, cost to target of each arm, affinity against random."""
    return [
        _evidence(experiment),
        *(_target(experiment, judgement, arm) for arm in experiment.trained_arms),
        *_accuracy(experiment, judgement, comparisons),
        *_grouping(experiment, comparisons),
        *_absent(experiment),
    ]


def _evidence(experiment: Experiment) -> str:
    n = len(experiment.seeds)
    size = f"{len(experiment.datasets)} datasets, {len(experiment.trained_arms)} trained arms, {n} seed(s)."
    if n == 0:
        return f"{size} Nothing was trained, so nothing is compared."
    if n == 1:
        return f"{size} With one seed nothing can be concluded: every difference below may be noise between seeds."
    if n < MIN_PAIRS:
        return f"{size} Fewer than {MIN_PAIRS} seeds: differences are described, not established."
    return f"{size} Arms are compared on the same seeds, with Holm's correction."


def _target(experiment: Experiment, judgement: Judgement, arm: str) -> str:
    by_seed = judgement.of_arm(arm)
    if not by_seed:
        return f"{arm}: missing, or not comparable with {judgement.baseline}."
    hits = [costs.target.together for costs in by_seed.values() if costs.target.together]
    n = len(by_seed)
    sizes = [(c.target.n_reached, c.target.most_together, c.target.n_datasets) for c in by_seed.values()]
    if not hits:
        ever, together, total = max(sizes)
        return (
            f"{arm} did not reach the target in its budget in any of {n} seed(s): in the best one {ever} of {total} "
            f"datasets met theirs at some time, {together} at once." + _looser(judgement, arm)
        )
    samples = summarize([cost.samples for cost in hits]).mean
    sentence = f"{arm} reached the target in {len(hits)} of {n} seed(s), after {samples:,.0f} samples on average"
    probes = [costs.probe.samples for costs in by_seed.values() if costs.probe]
    sentence += f" ({probes[0]:,.0f} of them for the probe)" if probes else ""
    gains = list(speed_ups(judgement, arm, "samples").values())
    if arm == judgement.baseline:
        return sentence + "."
    if not gains:
        return (
            sentence
            + f"; {judgement.baseline} itself never met all its own bests at once there, so no speed-up exists."
        )
    gain = summarize(gains).mean
    return sentence + f": {percent(abs(gain), 0)} {'fewer' if gain >= 0 else 'more'} than {judgement.baseline}."


def _looser(judgement: Judgement, arm: str) -> str:
    """The each-dataset-once cost, for an arm or a baseline that never met all targets together."""
    hits = [c.target.each_once for c in judgement.of_arm(arm).values() if c.target.each_once]
    if not hits:
        return ""
    samples = summarize([cost.samples for cost in hits]).mean
    sentence = f" Taking each dataset's first time alone, all had met theirs after {samples:,.0f} samples"
    gains = list(speed_ups(judgement, arm, "samples", "each_once").values())
    if arm == judgement.baseline or not gains:
        return sentence + "."
    gain = summarize(gains).mean
    return sentence + f", {percent(abs(gain), 0)} {'fewer' if gain >= 0 else 'more'} than {judgement.baseline}."


def _accuracy(experiment: Experiment, judgement: Judgement, comparisons: Sequence[Comparison]) -> list[str]:
    sentences = []
    for arm in experiment.trained_arms:
        parts = [_difference(item) for item in headline_differences(comparisons, arm, judgement.baseline)]
        if any(parts):
            sentences.append(
                f"{arm} against {judgement.baseline} at the end: {'; '.join(part for part in parts if part)}."
            )
    return sentences


def _grouping(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[str]:
    randoms = [arm for arm in experiment.arms if is_random(arm)]
    informed = affinity_arms(experiment)
    if not informed:
        return []
    if not any(experiment.of_arm(arm) for arm in randoms):
        return ["No random-groups control was run, so nothing here says whether affinity matters."]
    sentences = []
    for ours in informed:
        for theirs in randoms:
            found = headline_differences(comparisons, ours, theirs)
            speed = [c for c in comparisons if (c.ours, c.theirs) == (ours, theirs) and c.metric in SPEED_METRICS]
            parts = [part for item in (*found, *speed[:1]) if (part := _difference(item))]
            if parts:
                sentences.append(
                    f"Affinity groups ({ours}) against random groups ({theirs}): {'; '.join(parts)}. {_verdict(found)}"
                )
    return sentences


def _difference(item: Comparison) -> str:
    paired = item.paired
    if math.isnan(paired.difference):
        return ""
    words = f"{item.metric} {100 * paired.difference:+.1f} points"
    if item.left_out:
        words += f" on the {paired.n} seed(s) where both reached the target"
    if paired.interval is not None:
        words += f" (95 % interval {100 * paired.interval[0]:+.1f} to {100 * paired.interval[1]:+.1f})"
    return words


def _verdict(found: Sequence[Comparison]) -> str:
    n = min((item.paired.n for item in found), default=0)
    if n < MIN_PAIRS:
        return f"With {n} seed(s) this does not tell whether affinity groups beat random ones."
    clear = [c for c in found if c.holm_p is not None and c.holm_p < 0.05]
    if not clear:
        return "In final accuracy the two cannot be told apart."
    sides = [f"{'better' if c.paired.difference > 0 else 'worse'} in {c.metric}" for c in clear]
    return f"At the end of the budget affinity groups are {' and '.join(sides)} (Holm's p < 0.05)."


def _absent(experiment: Experiment) -> list[str]:
    n = len(experiment.missing) + len(experiment.excluded)
    return [f"{n} run(s) are missing or excluded; the list is below."] if n else []
