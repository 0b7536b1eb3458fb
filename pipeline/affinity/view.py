"""What the page shows of affinity versions, ready for JSON: one version under one metric, or two versions compared.

Matrices are symmetric and go as lower triangles (row i holds columns 0..i), because at 1,000 datasets they are most of
an answer. Numbers carry five digits; what is not defined or not finite is None.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from pipeline.affinity.estimator import Array, cosine_of, distance_of
from pipeline.affinity.indices import adjusted_rand_index
from pipeline.affinity.layout import Arrangement, arrange, similarity_map
from pipeline.affinity.versions import AffinityVersion
from pipeline.errors import AffinityError, did_you_mean

Metric = Literal["distance", "cosine", "gram"]
Triangle = list[list[float | None]]

DIGITS = 5


def version_view(version: AffinityVersion, metric: Metric = "distance", module: str | None = None) -> dict[str, Any]:
    """All that the page shows of one version. Lists over datasets stand in the order of the dendrogram.

    Keys: `datasets` (name, group, noise_scale, norm, batches, confidence, rival, rival_share), `groups` (number,
    start, size: the boxes), `matrix`, `low`, `high` (None without intervals: they were not kept for modules and the
    Gram matrix), `dendrogram`, `map`, `stability`, and what the version says of itself.

    Args:
        metric: `distance` is the corrected squared distance of gradients, `gram` their inner product.
        module: name of a parameter group; None: the whole gradient.

    Raises:
        AffinityError: unknown metric or module.
    """
    if metric not in get_args(Metric):
        raise AffinityError("unknown affinity metric", got=metric, expected=", ".join(get_args(Metric)))
    gram = _gram(version, module)
    values, dissimilarity = _matrix(version, gram, metric, whole=module is None)
    members = _members(version)
    placed = arrange(dissimilarity, members)
    low, high = (_interval(version, metric, side) if module is None else None for side in ("low", "high"))
    group_of = {i: number for number, group in enumerate(members) for i in group}
    return {
        **_summary(version),
        "metric": metric,
        "module": module,
        "modules": sorted(version.modules),
        "datasets": _datasets(version, gram, placed.order, group_of),
        "groups": _boxes(placed, members),
        "matrix": _triangle(values, placed.order),
        "low": None if low is None else _triangle(low, placed.order),
        "high": None if high is None else _triangle(high, placed.order),
        "level": version.parameters.get("level"),
        "dendrogram": [
            [*_numbers([m.left, m.left_height, m.right, m.right_height, m.height]), m.group] for m in placed.merges
        ],
        "map": _map(_squared(dissimilarity, metric), placed.order),
        "stability": _stability(version, placed.order),
    }


def compare_versions(a: AffinityVersion, b: AffinityVersion) -> dict[str, Any]:
    """How `b` differs from `a`, over the datasets that both have, in the order of `a`'s dendrogram.

    Distances are in units of each version's own median, so that gradients which have grown or shrunk since do not
    drown what changed between datasets. Group numbers mean nothing across versions: the groups of `b` are matched to
    those of `a` so that as many datasets as possible stay, and a dataset has moved if it is not in its group's match.

    Keys: `a`, `b` (summaries; `matrix`, and `group`: the group of each shared dataset), `only_in_a`, `only_in_b`,
    `shared` (names), `adjusted_rand_index`, `rank_correlation` (Spearman, of the pairs' distances; both None where
    they are not defined), `flow` ([groups of a][groups of b] counts), `matched` (group of a -> group of b, None
    without one), `moved` (dataset, from, to) and `difference` (b - a).
    """
    shared = _shared_in_order(a, b)
    group_a, group_b = _group_numbers(a, shared), _group_numbers(b, shared)
    relative_a, relative_b = _relative_distance(a, shared), _relative_distance(b, shared)
    flow = np.zeros((len(a.groups), len(b.groups)), dtype=int)
    np.add.at(flow, (group_a, group_b), 1)
    matched = _match(flow)
    moved = [
        {"dataset": name, "from": old, "to": new}
        for name, old, new in zip(shared, group_a, group_b, strict=True)
        if matched[old] != new
    ]
    every = list(range(len(shared)))
    return {
        "a": {**_summary(a), "matrix": _triangle(relative_a, every), "group": group_a},
        "b": {**_summary(b), "matrix": _triangle(relative_b, every), "group": group_b},
        "only_in_a": sorted(set(a.datasets) - set(b.datasets)),
        "only_in_b": sorted(set(b.datasets) - set(a.datasets)),
        "shared": shared,
        "same_spec": a.spec == b.spec,
        "adjusted_rand_index": adjusted_rand_index(group_a, group_b) if len(shared) > 1 else None,
        "rank_correlation": _rank_correlation(relative_a, relative_b),
        "flow": flow.tolist(),
        "matched": matched,
        "moved": moved,
        "difference": _triangle(relative_b - relative_a, every),
    }


def _gram(version: AffinityVersion, module: str | None) -> Array:
    if module is None:
        return version.estimate.gram
    if module not in version.modules:
        known = sorted(version.modules)
        raise AffinityError(
            "this affinity version has no view of such a module",
            where={"version": version.id},
            got=module,
            expected=", ".join(known) or "the whole gradient only",
            hint=did_you_mean(module, known),
        )
    return version.modules[module]


def _matrix(version: AffinityVersion, gram: Array, metric: str, *, whole: bool) -> tuple[Array, Array]:
    """[D, D] what is shown, and the dissimilarity that orders it (an undefined cosine counts as 0)."""
    distance = version.estimate.distance_sq if whole else distance_of(gram)
    if metric == "cosine":
        cosine = version.estimate.cosine if whole else cosine_of(gram)
        return cosine, _zero_diagonal(1.0 - np.nan_to_num(cosine, nan=0.0))
    return (gram if metric == "gram" else distance), distance


def _interval(version: AffinityVersion, metric: str, side: str) -> Array | None:
    return version.intervals.get(f"{metric}_{side}")


def _squared(dissimilarity: Array, metric: str) -> Array:
    """Squared distances for the map; of unit vectors under the cosine."""
    return 2 * dissimilarity if metric == "cosine" else dissimilarity


def _zero_diagonal(matrix: Array) -> Array:
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _members(version: AffinityVersion) -> list[list[int]]:
    """The groups as rows of the version's matrices, in the order in which they enter training."""
    row = {name: i for i, name in enumerate(version.datasets)}
    return [[row[name] for name in group] for group in version.groups]


def _summary(version: AffinityVersion) -> dict[str, Any]:
    grouping = version.grouping
    return {
        "id": version.id,
        "created": version.created,
        "method": version.method,
        "source": version.source,
        "spec": version.spec,
        "parameters": version.parameters,
        "cost": version.cost,
        "reliability": None if version.reliability is None else _numbers([version.reliability])[0],
        "verdict": version.verdict,
        "warnings": list(version.estimate.warnings),
        "group_sizes": [len(group) for group in version.groups],
        "grouping": {"source": grouping.source, "metric": grouping.metric, "order": grouping.order},
    }


def _datasets(
    version: AffinityVersion, gram: Array, order: list[int], group_of: dict[int, int]
) -> list[dict[str, Any]]:
    batches = version.parameters.get("batches", {})
    diagonal = np.diag(gram)
    norm = _numbers(np.sqrt(np.where(diagonal > 0, diagonal, np.nan)))
    noise_scale = _numbers(version.estimate.noise_scale)
    confidence = _confidence(version, group_of)
    return [
        {
            "name": version.datasets[i],
            "group": group_of[i],
            "noise_scale": noise_scale[i],
            "norm": norm[i],
            "batches": batches.get(version.datasets[i]),
            **confidence[i],
        }
        for i in order
    ]


def _confidence(version: AffinityVersion, group_of: dict[int, int]) -> list[dict[str, Any]]:
    """How often the resamples put a dataset with its own group, and with which other group most often.

    The share is a mean over the other members; a dataset that is a group of its own has what its closest companion
    leaves over. None without resamples or with one group, where there is nothing to be sure of.
    """
    together = version.grouping.co_assignment
    groups = np.array([group_of[i] for i in range(len(group_of))])
    if together is None or len(version.groups) < 2:
        return [{"confidence": None, "rival": None, "rival_share": None} for _ in groups]
    share = np.array(together, dtype=np.float64)
    np.fill_diagonal(share, 0.0)
    belongs = np.eye(len(version.groups))[groups]  # [D, groups]
    sizes = belongs.sum(0)
    every = np.arange(len(groups))
    means = share @ belongs / sizes
    own_sizes = sizes[groups]
    mates = means[every, groups] * own_sizes / np.maximum(own_sizes - 1, 1)
    confidence = np.where(own_sizes > 1, mates, 1.0 - share.max(1))
    others = np.where(belongs > 0, -1.0, means)
    rival = others.argmax(1)
    return [
        {"confidence": own, "rival": int(other), "rival_share": other_share}
        for own, other, other_share in zip(_numbers(confidence), rival, _numbers(others[every, rival]), strict=True)
    ]


def _boxes(placed: Arrangement, members: list[list[int]]) -> list[dict[str, int]]:
    boxes, start = [], 0
    for number in placed.groups:
        boxes.append({"number": number, "start": start, "size": len(members[number])})
        start += len(members[number])
    return boxes


def _map(squared_distance: Array, order: list[int]) -> dict[str, Any]:
    points, share = similarity_map(squared_distance)
    return {"x": _numbers(points[order, 0]), "y": _numbers(points[order, 1]), "share": _numbers([share])[0]}


def _stability(version: AffinityVersion, order: list[int]) -> dict[str, Any]:
    """The evidence for the groups: a row for each number of groups that was tried, and the held-out gap."""
    grouping = version.grouping
    columns = {"stability": grouping.stability, "silhouette": grouping.silhouette, "eigengap": grouping.eigengap}
    tried = sorted(set().union(*columns.values()))
    rows = [{"k": k, **{name: _numbers([column.get(k)])[0] for name, column in columns.items()}} for k in tried]
    together = grouping.co_assignment
    return {
        "chosen": grouping.k,
        "rows": rows,
        "gap": grouping.gap,
        "gap_low": grouping.gap_low,
        "gap_high": grouping.gap_high,
        "co_assignment": None if together is None else _triangle(np.array(together), order),
    }


def _shared_in_order(a: AffinityVersion, b: AffinityVersion) -> list[str]:
    known = set(b.datasets)
    return [a.datasets[i] for i in arrange(a.estimate.distance_sq, _members(a)).order if a.datasets[i] in known]


def _group_numbers(version: AffinityVersion, names: list[str]) -> list[int]:
    number = {name: i for i, group in enumerate(version.groups) for name in group}
    return [number[name] for name in names]


def _relative_distance(version: AffinityVersion, names: list[str]) -> Array:
    """[n, n] corrected squared distances over their median."""
    rows = [version.datasets.index(name) for name in names]
    distance = version.estimate.distance_sq[np.ix_(rows, rows)]
    pairs = np.clip(distance[np.triu_indices(len(rows), 1)], 0.0, None)
    scale = (float(np.median(pairs)) or float(pairs.mean())) if pairs.size else 0.0
    return distance / (scale or 1.0)


def _rank_correlation(a: Array, b: Array) -> float | None:
    pairs = np.triu_indices(len(a), 1)
    if len(pairs[0]) < 2 or np.ptp(a[pairs]) == 0 or np.ptp(b[pairs]) == 0:
        return None
    return _numbers([spearmanr(a[pairs], b[pairs]).statistic])[0]


def _match(flow: Array) -> list[int | None]:
    """For each row the column that it is matched to, so that the matched counts add up to the most."""
    rows, columns = linear_sum_assignment(flow, maximize=True)
    found = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [found.get(row) for row in range(len(flow))]


def _triangle(matrix: Array, order: list[int]) -> Triangle:
    """Row i holds columns 0..i of the symmetric `matrix` with its rows and columns in `order`."""
    rows = _numbers(matrix[np.ix_(order, order)])
    return [row[: i + 1] for i, row in enumerate(rows)]


def _numbers(values: Any) -> Any:
    """Nested lists of floats with `DIGITS` significant digits; None for what is missing or not finite."""
    exact = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(exact)
    size = np.abs(np.where(finite & (exact != 0), exact, 1.0))
    unit = 10.0 ** np.clip(DIGITS - 1 - np.floor(np.log10(size)), -300, 300)
    rounded = (np.round(np.where(finite, exact, 0.0) * unit) / unit).astype(object)
    rounded[~finite] = None
    return rounded.tolist()
