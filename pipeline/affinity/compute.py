"""From gradient statistics to an affinity version: estimate, resample, group."""

from __future__ import annotations

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.grouping import group_datasets
from pipeline.affinity.resample import bootstrap
from pipeline.affinity.versions import AffinityVersion, inputs_digest, make_version
from pipeline.config.schema import AffinityConfig


def compute_version(stats: GradientStats, options: AffinityConfig) -> AffinityVersion:
    """The version of `stats` under `options`, not yet saved.

    Raises:
        AffinityError: too few micro-batches, more groups than datasets, or `auto` without kept micro-batches.
    """
    estimate = corrected_gram(stats)
    intervals = bootstrap(stats, options.bootstrap, options.seed)
    grouping = group_datasets(
        estimate, intervals, metric=options.metric, groups=options.groups, order=options.order, seed=options.seed
    )
    return make_version(stats, estimate, intervals, grouping, inputs_digest(stats, options.model_dump()))
