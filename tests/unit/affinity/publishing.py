"""Publications made of synthetic gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.outbox import Outbox, Publication
from pipeline.affinity.records import ProbeRecord, RunRecord
from pipeline.cli.affinity_link import probe_publication
from pipeline.cli.probe_mark import ProbeMark, write_mark
from pipeline.config import Recipe

DATASETS = ("a", "b", "c")
SPEC: dict[str, str | int] = {"k": 64, "seed": 0, "version": 1, "gradient": "raw", "model": ""}


def make_stats(seed: int = 0, batches: int = 4) -> GradientStats:
    rng = np.random.default_rng(seed)
    return GradientStats.from_batches({name: rng.normal(size=(batches, 64)) for name in DATASETS}, spec=dict(SPEC))


def make_publication(
    run: str = "exp-arm-s0", step: int = 50, *, kind: str = "window", seed: int = 0, digest: str = "d"
) -> Publication:
    stats = make_stats(seed)
    if kind == "window":
        stats = replace(stats, batches=None)
    record = RunRecord(name=run, project="exp", arm="arm", datasets=DATASETS, config_digest=digest)
    probe = ProbeRecord(run=run, step=step, kind=kind, datasets=DATASETS, spec=SPEC)
    return Publication(record, probe, "main", stats)


def put_probe(recipe: Recipe, stats: GradientStats | None = None, **spec: str | int) -> None:
    """What `gst probe` leaves when the store could not be reached."""
    stats = replace(stats or make_stats(), source="0123456789abcdef", spec={**SPEC, **spec})
    publication = probe_publication(recipe, stats)
    Outbox(Path(recipe.out) / "outbox").add(publication)
    mark = ProbeMark(
        run=publication.run.name,
        step=publication.probe.step,
        contributor=publication.contributor,
        source=stats.source,
        spec=publication.probe.spec,
        cost={"samples": 1, "seconds": 1},
    )
    write_mark(recipe, mark)


def add_numbered(folder: str, count: int, run: str) -> None:
    """What one of several processes does that write into one outbox."""
    outbox = Outbox(Path(folder))
    for step in range(count):
        outbox.add(make_publication(run, step))
