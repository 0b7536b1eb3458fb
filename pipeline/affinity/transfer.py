"""Transferability, the costly rival of gradient affinity: what short trainings do to the loss of every dataset.

A short training on dataset i lowers the loss of dataset j, to first order, by eta * steps * G_ij with G_ij the inner
product of their gradients (under Adam, preconditioned). So the measured reductions T_ij stand where the Gram matrix
does: distance, cosine, similarity, groups and their order follow from them unchanged. Measuring affinity by the loss
after training on another task, relative to the loss before, is the idea of TAG (Fifty et al. 2021).

With L_j the loss of j at the base and L_j|x after a training on x:

    source   T_ij = (L_j - L_j|i) / L_j
    pair     T_ij = 2 (L_j - L_j|ij) / L_j - T_jj,    T_jj = (L_j - L_j|j) / L_j

`pair` takes away what half of the steps on j alone would give, T_jj / 2 to first order; the rest is due to i's half of
the steps, and i's whole budget would give twice that. T is then made symmetric: (T_ij + T_ji) / 2.

The distance T_ii + T_jj - 2 T_ij is then what both lose when each is trained on the other instead of on itself
(`source`), or twice what both lose by sharing one budget instead of having one each (`pair`). What j gains from every
training alike, such as from the momentum that the base's optimizer still has, cancels in it; in the cosine it does not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations_with_replacement
from typing import Any, Literal, get_args

import numpy as np

from pipeline.affinity.compute import group_as_asked
from pipeline.affinity.estimator import CLEARLY_POSITIVE, Array, GramEstimate, cosine_of, distance_of
from pipeline.affinity.resample import Bootstrap, with_intervals
from pipeline.affinity.versions import AffinityVersion, describe_intervals
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError

Trainings = Literal["source", "pair"]

METHOD = "transferability"
MIN_REPEATS = 4  # two for each half of a split
LEVEL = 0.95


@dataclass(frozen=True)
class TransferResults:
    """Validation losses before and after short trainings from one base, S repeats with other data order.

    Attributes:
        trainings: `source`, on one dataset each; `pair`, on two each, half and half.
        base: [S, D] losses before.
        after: [S, D, D] loss of dataset j (last axis) after training on i, or (`pair`) on i and j; the diagonal:
            on that dataset alone.
        steps: optimizer steps of a training.
        cost: what the trainings took, the base's warm-up included: samples, tokens, steps, seconds, trainings.
        source: digest of what they were done with (recipe, base model, data).
    """

    datasets: list[str]
    trainings: Trainings
    base: Array
    after: Array
    steps: int = 0
    cost: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        d = len(self.datasets)
        if d == 0 or len(set(self.datasets)) != d:
            raise AffinityError("transfer results need dataset names, each once", got=self.datasets)
        if self.trainings not in get_args(Trainings):
            raise AffinityError("unknown kind of trainings", got=self.trainings, expected="source or pair")
        s = len(self.base)
        if s == 0 or self.base.shape != (s, d) or self.after.shape != (s, d, d):
            raise AffinityError(
                "transfer results do not fit together",
                got=f"base {self.base.shape}, after {self.after.shape}",
                expected=f"[S, {d}] and [S, {d}, {d}] for {d} datasets and at least one repeat",
            )
        places = ("repeat", "trained on", "scored on")
        self._refuse(~np.isfinite(self.after), "a loss after a short training is NaN or infinite", places)
        unusable = ~(np.isfinite(self.base) & (self.base > 0))
        self._refuse(unusable, "a loss before the short trainings is not a positive number", ("repeat", "scored on"))

    def _refuse(self, unusable: Array, what: str, axes: tuple[str, ...]) -> None:
        """Raise AffinityError with the place of the first of the `unusable` losses; the first axis is the repeat."""
        if not unusable.any():
            return
        repeat, *rows = np.argwhere(unusable)[0].tolist()
        raise AffinityError(
            what,
            where=dict(zip(axes, [repeat, *(self.datasets[row] for row in rows)], strict=True)),
            got=f"{int(unusable.sum())} of {unusable.size} losses",
            hint="lower train.optimizer.lr or transfer.steps, or leave this dataset out; then run `gst transfer` again",
        )

    @property
    def repeats(self) -> int:
        return len(self.base)


def planned_trainings(datasets: list[str], trainings: Trainings) -> list[tuple[str, ...]]:
    """The datasets of every training of one repeat: D alone, or D (D + 1) / 2 pairs with each dataset's own alone."""
    if trainings == "source":
        return [(name,) for name in datasets]
    return [(one,) if one == other else (one, other) for one, other in combinations_with_replacement(datasets, 2)]


def transfers(results: TransferResults) -> Array:
    """[S, D, D] symmetric T of every repeat, by the formulas above."""
    gain = (results.base[:, None, :] - results.after) / results.base[:, None, :]
    if results.trainings == "pair":
        alone = np.diagonal(gain, axis1=1, axis2=2)
        gain = 2 * gain - alone[:, None, :]
    return (gain + gain.transpose(0, 2, 1)) / 2


def transfer_estimate(results: TransferResults) -> GramEstimate:
    """T, averaged over repeats, where the Gram matrix of gradients stands.

    Nothing is to be corrected: trained on and scored are different examples, so noise adds nothing to the diagonal,
    and `raw_gram` is equal. `noise` and `noise_scale` are NaN, being of micro-batches. A cosine is given where the
    diagonals are more than two standard errors over repeats above zero; with one repeat, above zero.
    """
    every = transfers(results)
    gram = every.mean(0)
    own = np.diagonal(every, axis1=1, axis2=2)
    error = own.std(0, ddof=1) / np.sqrt(results.repeats) if results.repeats > 1 else np.zeros(len(gram))
    clear = np.diag(gram) > CLEARLY_POSITIVE * error
    cosine = np.full_like(gram, np.nan)
    cosine[np.ix_(clear, clear)] = cosine_of(gram[np.ix_(clear, clear)])
    distance = distance_of(gram)
    unknown = np.full(len(gram), np.nan)
    return GramEstimate(
        datasets=list(results.datasets),
        gram=gram,
        raw_gram=gram.copy(),
        noise=unknown,
        noise_scale=unknown.copy(),
        distance_sq=distance,
        raw_distance_sq=distance.copy(),
        cosine=cosine,
        warnings=_warnings(results, np.diag(gram), clear, distance),
    )


def transfer_bootstrap(results: TransferResults, n: int = 200, seed: int = 0, level: float = LEVEL) -> Bootstrap | None:
    """`n` resamples of the repeats, and as many random halves; None with fewer than four repeats.

    Resampled means vary by a factor of (S - 1) / S too little, which matters for few repeats; their deviations are
    stretched by its inverse root (Davison and Hinkley 1997, section 2.5).
    """
    s = results.repeats
    if s < MIN_REPEATS:
        return None
    every = transfers(results)
    rng = np.random.default_rng(seed)
    drawn = np.stack([every[rng.integers(s, size=s)].mean(0) for _ in range(n)])
    orders = [rng.permutation(s) for _ in range(n)]
    halves = [[every[order[: s // 2]].mean(0), every[order[s // 2 :]].mean(0)] for order in orders]
    mean = every.mean(0)
    return with_intervals(mean + np.sqrt(s / (s - 1)) * (drawn - mean), np.array(halves), level, seed)


def transfer_inputs(results: TransferResults, options: AffinityConfig) -> str:
    """Identifies a computation, as `versions.inputs_digest` does for gradients: losses and options, both exactly."""
    content = {
        "datasets": results.datasets,
        "trainings": results.trainings,
        "base": results.base.tolist(),
        "after": results.after.tolist(),
        "options": options.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def transfer_version(results: TransferResults, options: AffinityConfig) -> AffinityVersion:
    """The version of `results` under `options`, not yet saved.

    Raises:
        AffinityError: more groups than datasets, `auto` with too few repeats, a metric that is not defined, or
            weights of modules, which trainings of the whole model cannot tell apart.
    """
    if options.modules is not None:
        raise AffinityError(
            "transferability has no view of single modules: the short trainings move the whole model",
            where={"key": "affinity.modules"},
            hint="leave it out, or use affinity.method=gradient",
        )
    intervals = transfer_bootstrap(results, options.bootstrap, options.seed)
    if options.groups == "auto" and intervals is None:
        raise AffinityError(
            "`groups: auto` needs repeated trainings to tell structure from noise",
            got=f"{results.repeats} repeat(s)",
            expected=f"at least {MIN_REPEATS}",
            hint=f"run `gst transfer` with transfer.seeds={MIN_REPEATS}, or name the number of groups",
        )
    estimate = transfer_estimate(results)
    few = f"{results.repeats} repeat(s) of the short trainings are too few to resample"
    grouping = group_as_asked(
        estimate, intervals, options, why_no_resamples=f"{few} (transfer.seeds: {MIN_REPEATS} or more)"
    )
    arrays, drawn = describe_intervals(intervals)
    made = {"trainings": results.trainings, "steps": results.steps, "repeats": results.repeats}
    return AffinityVersion(
        datasets=list(results.datasets),
        spec={},
        source=results.source,
        estimate=estimate,
        grouping=replace(grouping, source=METHOD),
        intervals=arrays,
        parameters=made | drawn,
        cost=dict(results.cost),
        inputs=transfer_inputs(results, options),
        created=datetime.now(UTC).isoformat(),
        method=METHOD,
    )


def _warnings(results: TransferResults, own: Array, clear: Array, distance: Array) -> tuple[str, ...]:
    found = []
    for name, value, is_clear in zip(results.datasets, own, clear, strict=True):
        if value <= 0:
            found.append(f"{name}: training on it did not lower its own validation loss ({value:+.2%}); no cosine")
        elif not is_clear:
            found.append(
                f"{name}: {results.repeats} repeats do not tell what it gains from itself from noise; no cosine"
            )
    upper = distance[np.triu_indices(len(distance), 1)]
    if (upper < 0).any():
        found.append(f"{int((upper < 0).sum())} of {upper.size} squared distances are negative; used as 0")
    return tuple(found)
