"""The affinity service at size and under fire: recomputing a thousand datasets, and pushes while it is being killed.

Recompute: 1,000 datasets, k = 8192, one contributor, sums without kept micro-batches, as a training window gives them.
From the stored payloads to a stored version: read and check, combine, estimate, three spectral groups with silhouette
and eigengap, save. No intervals: these need kept micro-batches.

Pushes: two jobs push 10,000 sketches to a real `gst serve` until each is acknowledged, while the service is SIGKILLed
20 times at random moments and started again. Then the store is read: what was acknowledged and is not there, or not
byte for byte, is lost; what counts more than once in the combined statistics is doubled.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.http import HttpTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import ProbeRecord, RunRecord, SketchKey
from pipeline.affinity.store.store import open_store
from pipeline.config.schema import AffinityConfig
from pipeline.dist import free_port
from pipeline.errors import UnreachableError
from tests.bench.common import ROUNDS, context, describe_machine, figure, run_benchmark
from tests.serving import Service, start_service

TARGET_S = 2.0
RUNS = ("job0", "job1")
JOBS = len(RUNS)
N_DATASETS, BATCHES = 50, 4
STEP = 50
SPEC = {"k": 8192, "seed": 0, "version": 1, "gradient": "raw", "model": "bench"}


def main(argv: Sequence[str]) -> None:
    """Print the figures; a missed target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench affinity-service", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that it runs")
    parser.add_argument("--parts", nargs="+", choices=("recompute", "pushes"), default=("recompute", "pushes"))
    parser.add_argument("--seed", type=int, default=5, help="of the sketches and of the moments of the kills")
    options = parser.parse_args(argv)
    describe_machine(("numpy", "scipy", "scikit-learn", "fastapi", "uvicorn"))
    with tempfile.TemporaryDirectory() as scratch:
        if "recompute" in options.parts:
            measure_recompute(Path(scratch) / "recompute", *((50, 512) if options.quick else (1000, 8192)))
        if "pushes" in options.parts:
            n_pushes, n_kills = (200, 2) if options.quick else (10_000, 20)
            measure_pushes(Path(scratch) / "pushes", n_pushes, n_kills, options.seed)


# ---------------------------------------------------------------------------------------------------------- recompute
def measure_recompute(folder: Path, n_datasets: int, k: int) -> None:
    """Print how long a version takes from stored sketches; each round groups anew, none finds the version before."""
    stats = window_stats(n_datasets, k)
    probe = declare(stats, "window", STEP)
    with open_store(folder) as store:
        store.declare_run(RunRecord(name="window", project="bench", arm="bench", datasets=probe.datasets))
        store.declare_probe(probe)
        for name in stats.datasets:
            key = SketchKey(run="window", step=STEP, dataset=name, spec=probe.spec_digest)
            store.push(key, dump_contribution(stats, name))
        seconds = []
        for number in range(-1, ROUNDS):
            started_s = time.perf_counter()
            version = store.group("window", STEP, AffinityConfig(groups=3, seed=number))
            if number >= 0:
                seconds.append(time.perf_counter() - started_s)
    assert len(version.datasets) == n_datasets
    context(f"{n_datasets} datasets, k={k}: {min(seconds):.2f} to {max(seconds):.2f} s over {ROUNDS} rounds")
    context(version.verdict)
    figure("recompute_s", statistics.median(seconds), "s", target=TARGET_S, better="lower")


def window_stats(n_datasets: int, k: int, *, batches: int = 16, seed: int = 0) -> GradientStats:
    """Sums of `batches` micro-batches of every dataset, three groups planted; the micro-batches are not kept."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, k)) / np.sqrt(k)
    names = [f"set{number:04d}" for number in range(n_datasets)]
    halves_sum, halves_sq = np.zeros((2, n_datasets, k)), np.zeros((2, n_datasets))
    for number in range(n_datasets):
        noise = rng.uniform(1.0, 3.0) * rng.standard_normal((batches, k)) / np.sqrt(k)
        rows = directions[number % 3] + noise
        for half in (0, 1):
            halves_sum[half, number] = rows[half::2].sum(0)
            halves_sq[half, number] = np.square(rows[half::2]).sum()
    counts = np.full((2, n_datasets), batches // 2)
    return GradientStats(
        datasets=names,
        count=counts.sum(0),
        sum=halves_sum.sum(0),
        sum_sq=halves_sq.sum(0),
        spec={**SPEC, "k": k},
        half_count=counts,
        half_sum=halves_sum,
        half_sum_sq=halves_sq,
    )


def declare(stats: GradientStats, run: str, step: int) -> ProbeRecord:
    """What will be pushed of `stats` by one contributor."""
    return ProbeRecord(run=run, step=step, kind="window", datasets=tuple(stats.datasets), spec=stats.spec)


# ------------------------------------------------------------------------------------------------------------- pushes
@dataclass(frozen=True)
class PushReport:
    """`again`: requests that had to be sent more than once. `lost` and `doubled` are counted in the store."""

    pushes: int
    again: int
    kills: int
    lost: int
    doubled: int


def measure_pushes(folder: Path, n_pushes: int, n_kills: int, seed: int) -> None:
    """Print what the kills did."""
    started_s = time.monotonic()
    report = push_under_kills(folder, n_pushes, n_kills, seed)
    context(
        f"{report.pushes} pushes acknowledged to {JOBS} jobs, {report.kills} SIGKILLs of the service meanwhile, "
        f"{report.again} requests sent again; {time.monotonic() - started_s:.0f} s"
    )
    figure("service_kills", report.kills, "kills", target=n_kills)
    figure("pushes_lost", report.lost, "pushes", target=0, better="lower")
    figure("pushes_doubled", report.doubled, "pushes", target=0, better="lower")


def push_under_kills(folder: Path, n_pushes: int, n_kills: int, seed: int) -> PushReport:
    """Let two jobs push while the service dies again and again, then read the store."""
    folder.mkdir(parents=True)
    steps = range(n_pushes // (JOBS * N_DATASETS))
    moments = random.Random(seed)
    spawn = multiprocessing.get_context("spawn")
    done: multiprocessing.Queue[int] = spawn.Queue()
    kills = 0
    with closing(services(folder, free_port())) as alive:
        service = next(alive)
        jobs = [spawn.Process(target=push_all, args=(service.url, run, steps, done)) for run in RUNS]
        for job in jobs:
            job.start()
        while kills < n_kills and any(job.is_alive() for job in jobs):
            time.sleep(moments.uniform(0.1, 1.5))
            service.process.send_signal(signal.SIGKILL)
            kills += 1
            service = next(alive)
        for job in jobs:
            job.join()
            assert job.exitcode == 0
        again = sum(done.get() for _ in jobs)
    lost, doubled = count_faults(folder / "affinity", steps)
    return PushReport(len(steps) * JOBS * N_DATASETS, again, kills, lost, doubled)


def services(folder: Path, port: int) -> Generator[Service]:
    """One service after another on the same folder and port, each started when the one before is dead."""
    while True:
        with start_service(folder, "--port", port, "--rate", "100000/second") as service:
            yield service


def push_all(url: str, run: str, steps: Sequence[int], done: multiprocessing.Queue[int]) -> None:
    """One job: push every sketch of every step until it is acknowledged."""
    transport = HttpTransport(url, retries=0)
    again = 0

    def insist(call: Callable[[], object]) -> None:
        nonlocal again
        while True:
            try:
                call()
                return
            except UnreachableError:
                again += 1
                time.sleep(0.05)

    for step in steps:
        stats = probe_stats(run, step)
        probe = declare(stats, run, step)
        insist(partial(transport.declare_run, RunRecord(name=run, project="bench", arm=run, datasets=probe.datasets)))
        insist(partial(transport.declare_probe, probe))
        for name in stats.datasets:
            key = SketchKey(run=run, step=step, dataset=name, spec=probe.spec_digest)
            insist(partial(transport.push, key, dump_contribution(stats, name)))
    done.put(again)


def probe_stats(run: str, step: int) -> GradientStats:
    """What a job pushes for a step."""
    rng = np.random.default_rng([RUNS.index(run), step])
    rows = {f"set{number:02d}": rng.standard_normal((BATCHES, 64)) for number in range(N_DATASETS)}
    return GradientStats.from_batches(rows, {**SPEC, "k": 64})


def count_faults(folder: Path, steps: Sequence[int]) -> tuple[int, int]:
    """Sketches that are missing or not as sent, and micro-batches that count twice, by what the store says of them."""
    lost = doubled = 0
    with open_store(folder) as store:
        for run, step in itertools.product(RUNS, steps):
            missing = store.probe(run, step).missing
            lost += len(missing)
            if missing:
                continue
            version = store.group(run, step, AffinityConfig(groups=3, bootstrap=10))
            sent = corrected_gram(probe_stats(run, step))
            counts = version.parameters["batches"]
            doubled += sum(count > BATCHES for count in counts.values())
            differing = ~np.isclose(version.estimate.gram, sent.gram, rtol=1e-4, atol=1e-4).all(1)
            lost += int(differing.sum())
    return lost, doubled


if __name__ == "__main__":
    run_benchmark(main)
