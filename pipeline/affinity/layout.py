"""Where datasets stand in a picture: rows of a heatmap with their dendrogram, and points of a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.linalg import eigh
from scipy.spatial.distance import squareform

from pipeline.affinity.estimator import Array

OPTIMAL_ORDER_LIMIT = 300  # the best leaf order takes time cubic in the number of leaves


@dataclass(frozen=True)
class Merge:
    """Two branches joined at `height`; each branch stands at a leaf position and ends at a height of its own.

    Positions count leaves from 0. `group` is the group that the merge lies in, None where groups are joined.
    """

    left: float
    left_height: float
    right: float
    right_height: float
    height: float
    group: int | None


@dataclass(frozen=True)
class Arrangement:
    """Datasets in the order of a dendrogram in which every group is one branch.

    Attributes:
        order: [D] indices of datasets.
        groups: group numbers, in the order in which they stand.
        merges: D - 1 of them, children before parents.
    """

    order: list[int]
    groups: list[int]
    merges: list[Merge]


def arrange(dissimilarity: Array, groups: list[list[int]]) -> Arrangement:
    """Average linkage inside each group, and then among the groups.

    A group that is no branch of the datasets' own dendrogram would be torn apart by it; here groups stay whole, so
    that their boxes are boxes. Joined groups are drawn no lower than the branches they are made of.

    Args:
        dissimilarity: [D, D], symmetric, finite; negative entries count as 0.
        groups: every index 0..D-1 in exactly one group.
    """
    distance = np.clip(dissimilarity, 0.0, None)
    trees = [_linkage(distance[np.ix_(members, members)]) for members in groups]
    between = np.array([[distance[np.ix_(a, b)].mean() for b in groups] for a in groups])
    group_tree = _linkage(between)
    group_order = _leaves(group_tree, len(groups))
    order: list[int] = []
    merges: list[Merge] = []
    roots: dict[int, tuple[float, float]] = {}
    for number in group_order:
        members = groups[number]
        leaves = _leaves(trees[number], len(members))
        places = {leaf: (float(len(order) + i), 0.0) for i, leaf in enumerate(leaves)}
        roots[number], found = _join(trees[number], places, number)
        merges += found
        order += [members[leaf] for leaf in leaves]
    merges += _join(group_tree, roots, None)[1]
    return Arrangement(order, group_order, merges)


def similarity_map(squared_distance: Array) -> tuple[Array, float]:
    """[D, 2] coordinates by classical scaling (Torgerson 1952), and the share of the variance that they show.

    Squared distances are used as they are: corrected ones are unbiased, and a clipped one would not be. They need not
    be those of any points, so eigenvalues may be negative; the share is of the positive ones. 0 where all datasets
    coincide.
    """
    d = len(squared_distance)
    centred = squared_distance - squared_distance.mean(0) - squared_distance.mean(1)[:, None] + squared_distance.mean()
    values, vectors = eigh(-0.5 * centred)
    axes = np.argsort(values)[::-1][:2]
    scale = np.sqrt(np.clip(values[axes], 0.0, None))
    found = np.zeros((d, 2))
    found[:, : len(axes)] = vectors[:, axes] * scale
    # An eigenvector has no sign of its own: the point furthest out is on the positive side.
    furthest = np.abs(found).argmax(0)
    found *= np.where(found[furthest, np.arange(2)] < 0, -1.0, 1.0)
    total = float(np.clip(values, 0.0, None).sum())
    return found, float(np.square(scale).sum()) / total if total > 0 else 0.0


def _linkage(distance: Array) -> Array:
    """[n - 1, 4] average linkage; no rows for one leaf."""
    if len(distance) < 2:
        return np.empty((0, 4))
    # Halved sums keep the matrix symmetric to the last bit.
    condensed = squareform((distance + distance.T) / 2, checks=False)
    return np.asarray(linkage(condensed, "average", optimal_ordering=len(distance) <= OPTIMAL_ORDER_LIMIT))


def _leaves(tree: Array, leaves: int) -> list[int]:
    return [int(leaf) for leaf in leaves_list(tree)] if leaves > 1 else [0]


def _join(
    tree: Array, places: dict[int, tuple[float, float]], group: int | None
) -> tuple[tuple[float, float], list[Merge]]:
    """The merges of a linkage whose leaf i stands at `places[i]` (position, height), and where its root stands."""
    branches = dict(places)
    merges = []
    root = next(iter(branches.values()))
    for row, (a, b, height, _) in enumerate(tree, start=len(places)):
        (left, left_height), (right, right_height) = sorted((branches[int(a)], branches[int(b)]))
        top = max(float(height), left_height, right_height)
        merges.append(Merge(left, left_height, right, right_height, top, group))
        root = branches[row] = ((left + right) / 2, top)
    return root, merges
