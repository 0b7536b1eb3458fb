"""From gradient statistics to an affinity version: estimate, resample, group, and the view of each module."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.affinity.estimator import Array, GradientStats, GramEstimate, corrected_gram, gram_of_sums
from pipeline.affinity.grouping import Grouping, group_datasets
from pipeline.affinity.resample import Bootstrap, affordable_resamples, bootstrap, obstacle_to_resampling
from pipeline.affinity.versions import AffinityVersion, inputs_digest, make_version
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError

MAX_MODULE_ELEMENTS = 4_000_000  # of all groups' matrices together, 32 MB: 4 groups of 1,000 datasets, 100 of 200


def compute_version(stats: GradientStats, options: AffinityConfig, *, inputs: str | None = None) -> AffinityVersion:
    """The version of `stats` under `options`, not yet saved.

    With `options.modules` estimate, intervals and groups are those of the weighted parameter groups. Without kept
    micro-batches (of those groups) there are no intervals, which the verdict says. One thread does the linear algebra:
    the many small matrices gain nothing from more, and sums do not depend on how many there are.

    Args:
        inputs: `inputs_digest(stats, options.model_dump())`, where the caller knows it: it reads all of `stats`.

    Raises:
        AffinityError: too few micro-batches, more groups than datasets, unknown modules, or `auto` without resamples.
    """
    with threadpool_limits(1):
        view = stats if options.modules is None else stats.weighted(options.modules)
        estimate = corrected_gram(view)
        intervals, remark = _resamples(view, options)
        grouping = group_as_asked(estimate, intervals, options, why_no_resamples=remark)
        modules, left_out = module_grams(stats)
        if intervals is not None and remark:
            grouping = replace(grouping, verdict=f"{grouping.verdict}; {remark}")
        version = make_version(
            view,
            replace(estimate, warnings=estimate.warnings + left_out),
            intervals,
            grouping,
            inputs_digest(stats, options.model_dump()) if inputs is None else inputs,
        )
    parameters = version.parameters | ({} if options.modules is None else {"modules": dict(options.modules)})
    return replace(version, modules=modules, parameters=parameters)


def group_as_asked(
    estimate: GramEstimate, intervals: Bootstrap | None, options: AffinityConfig, *, why_no_resamples: str
) -> Grouping:
    """`group_datasets` with a recipe's metric, number of groups, order and seed; raises what that does."""
    return group_datasets(
        estimate,
        intervals,
        metric=options.metric,
        groups=options.groups,
        order=options.order,
        seed=options.seed,
        why_no_resamples=why_no_resamples,
    )


def module_grams(stats: GradientStats) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Each parameter group's own corrected Gram matrix [D, D], and a sentence about those left out, if any.

    Where not all fit `MAX_MODULE_ELEMENTS`, the groups with the largest gradients (summed |sum_b s_b|^2) are taken.
    """
    if stats.groups is None or stats.group_sum is None or stats.group_sum_sq is None:
        return {}, ()
    d, most = len(stats.datasets), MAX_MODULE_ELEMENTS // len(stats.datasets) ** 2
    chosen = list(range(len(stats.groups)))
    if len(chosen) > most:
        size = np.einsum("dgk,dgk->g", stats.group_sum, stats.group_sum)
        chosen = sorted(np.argsort(-size, kind="stable")[:most].tolist())
    modules = {
        stats.groups[g]: gram_of_sums(stats.group_sum[:, g], stats.group_sum_sq[:, g], *stats.weights, fast=True)
        for g in chosen
    }
    if len(modules) == len(stats.groups):
        return modules, ()
    return modules, (
        f"views of {len(stats.groups) - len(modules)} of {len(stats.groups)} parameter groups are left out, those with "
        f"the smallest gradients: {most} matrices of {d} x {d} fit",
    )


def _resamples(stats: GradientStats, options: AffinityConfig) -> tuple[Bootstrap | None, str]:
    """Resamples, as many as asked for or affordable, and what there is to say about their number."""
    obstacle = obstacle_to_resampling(stats)
    if obstacle is not None:
        if options.groups == "auto":
            raise obstacle
        return None, _reason(obstacle, options)
    n = affordable_resamples(stats, options.bootstrap)
    size = f"{int(stats.count.sum()):,} micro-batches of {len(stats.datasets):,} datasets"
    if n == 0:
        return None, f"{size} are too many to resample"
    few = f"{n} resamples instead of {options.bootstrap}, as more of {size} do not fit" if n < options.bootstrap else ""
    return bootstrap(stats, n, options.seed), few


def _reason(obstacle: AffinityError, options: AffinityConfig) -> str:
    if obstacle.got is None and options.modules is not None:
        return "the micro-batches' sketches of these modules were not kept apart"
    return obstacle.what if obstacle.got is None else f"{obstacle.what} ({obstacle.got})"
