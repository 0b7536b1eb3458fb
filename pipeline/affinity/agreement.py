"""Do different measures of affinity say the same? Their groups and their order of all pairs of datasets, compared.

Two views of the same datasets agree in their groups (adjusted Rand index, Hubert and Arabie 1985: 1 for the same
groups, 0 by chance) and in which pairs are more alike than others (Spearman's rank correlation over pairs, which needs
no common scale). Both come with the share of permutations of the datasets' names that agree at least as well (Mantel
1967): pairs share datasets, so they are not independent and the usual p-value of a correlation would be too small.

A small p says that the agreement is more than chance would give, not that either view is right: views of one probe
share its micro-batches, and so also their noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from pipeline.affinity.estimator import Array, GramEstimate, cosine_of
from pipeline.affinity.grouping import Metric, group_datasets
from pipeline.affinity.indices import adjusted_rand_index
from pipeline.affinity.partitions import Groups
from pipeline.affinity.versions import AffinityVersion
from pipeline.atomic import write_atomic
from pipeline.errors import AffinityError

PERMUTATIONS = 999
MIN_PAIRS = 3  # two pairs always correlate by 1 or -1


@dataclass(frozen=True)
class AffinityView:
    """One answer to which datasets are alike.

    Attributes:
        similarity: [D, D] symmetric, larger is more alike, on any scale; NaN where the view has no answer. The diagonal
            does not count.
        groups: names of datasets; those that the view cannot place are in none.
        version: the affinity version whose matrices these are.
        cost: what the measurement took; `seconds` and `samples` are kept.
        reliability: split-half reliability of its pairs, where it is known.
        note: for people.
    """

    name: str
    datasets: list[str]
    similarity: Array
    groups: Groups
    version: str | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    reliability: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        d = len(self.datasets)
        if self.similarity.shape != (d, d) or not np.array_equal(self.similarity, self.similarity.T, equal_nan=True):
            raise AffinityError(
                "a view needs a symmetric matrix of its datasets",
                where={"view": self.name},
                got=self.similarity.shape,
                expected=(d, d),
            )

    def to_json(self) -> dict[str, Any]:
        """What the report reads of a view."""
        return {
            "name": self.name,
            "version": self.version,
            "groups": self.groups,
            "cost": {key: self.cost.get(key) for key in ("seconds", "samples")},
            "reliability": self.reliability,
            "note": self.note,
        }


@dataclass(frozen=True)
class Agreement:
    """How well two views agree on the datasets that both can place.

    Attributes:
        ari: adjusted Rand index of the groups; None where they agree by construction (one group in both, or only
            groups of one) or less than two datasets are shared.
        spearman: rank correlation over `n_pairs` pairs that both have an answer for, positive where they agree; None
            for fewer than `MIN_PAIRS`, or where one calls all pairs equal.
        ari_p, spearman_p: share of permutations of the datasets that agree at least as well, the one found included.
    """

    a: str
    b: str
    ari: float | None
    spearman: float | None
    n_pairs: int
    ari_p: float | None = None
    spearman_p: float | None = None


def view_of(
    version: AffinityVersion, name: str, metric: Metric, k: int, *, corrected: bool = True, note: str = ""
) -> AffinityView:
    """A version's distances or cosines as a view, with its datasets in `k` spectral groups as `gst group` makes them.

    Datasets without a cosine are in no group, which the note says.

    Args:
        k: groups; no more than there are datasets to place.
        corrected: False: of the plain means of the same micro-batches, |s_i - s_j|^2 and their cosine, in which the
            noise of the means still is.
    """
    estimate = version.estimate if corrected else _uncorrected(version.estimate)
    rows = np.flatnonzero(np.isfinite(np.diag(estimate.cosine if metric == "cosine" else estimate.distance_sq)))
    groups: Groups = []
    if len(rows):
        groups = group_datasets(_part(estimate, rows), metric=metric, groups=min(k, len(rows))).groups
    unplaced = [each for each in estimate.datasets if not any(each in group for group in groups)]
    notes = [note, f"no direction: {', '.join(unplaced)}" if unplaced else ""]
    return AffinityView(
        name=name,
        datasets=list(estimate.datasets),
        similarity=estimate.cosine if metric == "cosine" else -estimate.distance_sq,
        groups=groups,
        version=version.id,
        cost=dict(version.cost),
        reliability=version.reliability if corrected and metric == "distance" else None,
        note="; ".join(each for each in notes if each),
    )


def compare_views(a: AffinityView, b: AffinityView, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Agreement:
    """How well two views agree, over the datasets that both have."""
    return Agreement(a.name, b.name, **_rand(a, b, permutations, seed), **_rank(a, b, permutations, seed))


def write_views(path: Path, views: Sequence[AffinityView], missing: Sequence[str] = ()) -> None:
    """Write all views and how well each two agree as one JSON file, atomically.

    Args:
        missing: names of views that were wanted and could not be made.
    """
    pairs = [asdict(compare_views(a, b)) for a, b in combinations(views, 2)]
    content = {
        "views": [view.to_json() for view in views],
        "pairs": pairs,
        "permutations": PERMUTATIONS,
        "missing": list(missing),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _uncorrected(estimate: GramEstimate) -> GramEstimate:
    """The estimate as if the plain means had no noise."""
    raw = estimate.raw_gram
    return replace(estimate, gram=raw, distance_sq=estimate.raw_distance_sq, cosine=cosine_of(raw))


def _part(estimate: GramEstimate, rows: Array) -> GramEstimate:
    """The estimate of some datasets only."""
    square = np.ix_(rows, rows)
    return replace(
        estimate,
        datasets=[estimate.datasets[row] for row in rows],
        gram=estimate.gram[square],
        raw_gram=estimate.raw_gram[square],
        noise=estimate.noise[rows],
        noise_scale=estimate.noise_scale[rows],
        distance_sq=estimate.distance_sq[square],
        raw_distance_sq=estimate.raw_distance_sq[square],
        cosine=estimate.cosine[square],
    )


def _rand(a: AffinityView, b: AffinityView, permutations: int, seed: int) -> dict[str, Any]:
    """`ari` and `ari_p`.

    Permuted names keep the sizes of all groups, and then the index rises with the number of pairs that are together in
    both views, which is what is counted.
    """
    group_a, group_b = _group_of(a.groups), _group_of(b.groups)
    shared = [name for name in a.datasets if name in group_a and name in group_b]
    labels_a, labels_b = ([each[name] for name in shared] for each in (group_a, group_b))
    kinds = {len(set(labels_a)), len(set(labels_b))}
    if len(shared) < 2 or kinds == {1} or kinds == {len(shared)}:
        return {"ari": None, "ari_p": None}
    together_a, together_b = (np.equal.outer(each, each).astype(np.float64) for each in (labels_a, labels_b))
    p = _permutation_p(together_a, together_b, permutations, seed)
    return {"ari": adjusted_rand_index(labels_a, labels_b), "ari_p": p}


def _rank(a: AffinityView, b: AffinityView, permutations: int, seed: int) -> dict[str, Any]:
    """`spearman`, `spearman_p` and `n_pairs`."""
    shared = [name for name in a.datasets if name in set(b.datasets)]
    both = [
        view.similarity[np.ix_(rows, rows)]
        for view, rows in ((view, [view.datasets.index(name) for name in shared]) for view in (a, b))
    ]
    answered = np.isfinite(both[0]) & np.isfinite(both[1])
    np.fill_diagonal(answered, False)
    upper = np.triu(answered)
    n_pairs = int(upper.sum())
    ranks = [_standard(rankdata(matrix[upper])) for matrix in both]
    if n_pairs < MIN_PAIRS or not all(each.any() for each in ranks):
        return {"spearman": None, "spearman_p": None, "n_pairs": n_pairs}
    # The test permutes datasets, so it needs all pairs of those it permutes; a missing cosine lacks a whole row.
    used = np.flatnonzero(answered.any(1))
    p = None
    if n_pairs == len(used) * (len(used) - 1) // 2:
        square_a, square_b = (_as_square(each, upper)[np.ix_(used, used)] for each in ranks)
        p = _permutation_p(square_a, square_b, permutations, seed)
    return {"spearman": float(ranks[0] @ ranks[1]), "spearman_p": p, "n_pairs": n_pairs}


def _group_of(groups: Groups) -> dict[str, int]:
    return {name: number for number, group in enumerate(groups) for name in group}


def _standard(values: Array) -> Array:
    """Centred, of length 1, so that products are correlations; all zeros where the values are equal."""
    centred = values - values.mean() if values.size else values
    length = float(np.sqrt(np.square(centred).sum()))
    return np.asarray(centred / length if length > 0 else centred)


def _as_square(values: Array, upper: Array) -> Array:
    """The symmetric matrix whose entries above the diagonal, where `upper` is True, are `values`."""
    matrix = np.zeros(upper.shape)
    matrix[upper] = values
    return np.asarray(matrix + matrix.T)


def _permutation_p(a: Array, b: Array, permutations: int, seed: int) -> float:
    """One-sided p of sum_{i<j} a_ij b_ij against permutations of b's datasets; the diagonals do not count."""
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(len(a), 1)
    fixed = a[rows, columns]
    found = float(fixed @ b[rows, columns])
    found -= 1e-9 * max(abs(found), 1.0)  # sums of the same numbers in another order
    as_good = 0
    for _ in range(permutations):
        order = rng.permutation(len(a))
        as_good += float(fixed @ b[order[rows], order[columns]]) >= found
    return (1 + as_good) / (1 + permutations)
