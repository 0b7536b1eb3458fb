"""Partitions of datasets into groups, and the order in which groups enter: plain functions of names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from pipeline.affinity.estimator import Array
from pipeline.errors import AffinityError
from pipeline.types import DOMAINS

Order = Literal["progressive", "reverse", "random", "explicit"]
Groups = list[list[str]]


def random_partition(datasets: Sequence[str], sizes: Sequence[int], seed: int) -> Groups:
    """Groups of exactly `sizes`, drawn at random: the control for any grouping of those sizes.

    Depends on the set of names and the seed, not on the order in which the names come.

    Raises:
        AffinityError: the sizes do not add up to the number of datasets.
    """
    if sum(sizes) != len(datasets) or any(size < 1 for size in sizes):
        raise AffinityError(
            "group sizes do not fit the datasets",
            got=f"sizes {list(sizes)}, sum {sum(sizes)}",
            expected=f"{len(datasets)} datasets, every group at least 1",
        )
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(sorted(datasets))]
    edges = np.cumsum([0, *sizes])
    return [sorted(shuffled[start:stop]) for start, stop in pairwise(edges)]


def domain_partition(domains: Mapping[str, str]) -> Groups:
    """One group for each domain (dataset -> domain), in the order speech, music, sound, then any other by name."""
    known = [*DOMAINS, *sorted(set(domains.values()) - set(DOMAINS))]
    groups = [sorted(name for name, domain in domains.items() if domain == wanted) for wanted in known]
    return [group for group in groups if group]


def explicit_partition(groups: Sequence[Sequence[str]], datasets: Sequence[str]) -> Groups:
    """The stated groups, checked: every dataset in exactly one of them.

    Raises:
        AffinityError: names what is missing, unknown or listed twice.
    """
    listed = [name for group in groups for name in group]
    missing, unknown = sorted(set(datasets) - set(listed)), sorted(set(listed) - set(datasets))
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if missing or unknown or twice or not all(groups):
        raise AffinityError(
            "the stated groups must hold every dataset exactly once",
            got=f"missing: {missing or 'none'}; unknown: {unknown or 'none'}; twice: {twice or 'none'}",
            hint=None if all(groups) else "leave out empty groups",
        )
    return [list(group) for group in groups]


def reorder_groups(groups: Groups, order: Order, seed: int = 0) -> Groups:
    """`groups` as they are (`progressive`, `explicit`: they come in that order), reversed, or shuffled by `seed`."""
    _check_order(order)
    if order == "reverse":
        return [list(group) for group in reversed(groups)]
    if order == "random":
        return [list(groups[i]) for i in np.random.default_rng(seed).permutation(len(groups))]
    return [list(group) for group in groups]


def order_groups(
    gram: Array,
    datasets: Sequence[str],
    groups: Groups,
    order: Order = "progressive",
    *,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Groups:
    """The groups in the order in which they enter training.

    `progressive`: a step along group a's gradient lowers the loss of a pool with weights p, to first order, by
    sum_{i in a} q_i (G p)_i, with q the group's own weights (method: ranked again after each choice). The first group
    is the one that most lowers the loss of everything; each next one most lowers the loss of the pool so far.
    `reverse` is that order backwards, `random` a shuffle, `explicit` the order given. Ties keep the order given.

    Args:
        gram: [D, D] corrected inner products, rows in the order of `datasets`.
        weights: sampling weight of each dataset; equal when None. Only ratios matter.
    """
    _check_order(order)
    if order in ("random", "explicit"):
        return reorder_groups(groups, order, seed)
    mass = np.array([1.0 if weights is None else float(weights[name]) for name in datasets])
    row = {name: i for i, name in enumerate(datasets)}
    members = [[row[name] for name in group] for group in groups]
    left = list(range(len(groups)))
    chosen: list[int] = []
    while left:
        pool = [i for group in chosen for i in members[group]] or list(range(len(datasets)))
        gain = gram[:, pool] @ (mass[pool] / mass[pool].sum())
        best = max(left, key=lambda group: np.average(gain[members[group]], weights=mass[members[group]]))
        chosen.append(best)
        left.remove(best)
    ordered = [list(groups[group]) for group in chosen]
    return ordered[::-1] if order == "reverse" else ordered


def _check_order(order: str) -> None:
    if order not in get_args(Order):
        raise AffinityError("unknown order of groups", got=order, expected=", ".join(get_args(Order)))
