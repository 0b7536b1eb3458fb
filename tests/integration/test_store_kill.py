"""A job that pushes into its own store is killed at any moment: what was acknowledged is there, once, at once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import EventLine, ProbeRecord, RunRecord, SketchKey
from pipeline.affinity.store.store import open_store
from pipeline.config.schema import AffinityConfig
from tests.launching import ROOT, environment

N_KILLS = 10
PUSHES_S = (0.0, 0.4)  # from the first acknowledgement of a life to its end
K = 2048
DATASETS = ("a", "b", "c")
SPEC: dict[str, str | int] = {"k": K, "seed": 0}
RUN = RunRecord(name="run", project="exp", arm="gst", datasets=DATASETS)
OPTIONS = AffinityConfig(groups=2, bootstrap=10)

# Starts again at the beginning, as a replayed outbox does; says what was acknowledged as soon as it was.
LIFE = """
import sys
from pathlib import Path
import sklearn.metrics  # grouping imports it, which would take longer than a life
from pipeline.affinity.local import LocalTransport
from tests.integration.test_store_kill import *
transport = LocalTransport(Path(sys.argv[1]))
first = int(sys.argv[2])
transport.declare_run(RUN)
for step in range(first, 100_000):
    transport.declare_probe(probe_at(step))
    for dataset in DATASETS:
        new = transport.push(key_of(step, dataset), payload_of(step, dataset))
        print("push", step, dataset, int(new), flush=True)
    position = transport.append_events("run", [event_at(step)])
    print("event", step, "-", position, flush=True)
    if step % 10 == 0:
        print("version", step, transport.group("run", step, OPTIONS).id, 1, flush=True)
"""


def probe_at(step: int) -> ProbeRecord:
    return ProbeRecord(run="run", step=step, datasets=DATASETS, spec=SPEC)


def key_of(step: int, dataset: str) -> SketchKey:
    return SketchKey(run="run", step=step, dataset=dataset, spec=probe_at(step).spec_digest)


def payload_of(step: int, dataset: str) -> bytes:
    rng = np.random.default_rng([step, DATASETS.index(dataset)])
    return dump_contribution(GradientStats.from_batches({dataset: rng.standard_normal((4, K))}, dict(SPEC)), dataset)


def event_at(step: int) -> EventLine:
    return EventLine(position=step + 1, event={"event": "eval", "step": step, "text": "x" * (step % 700)})


def live_until_killed(folder: Path, first: int, pause_s: float) -> list[tuple[str, int, str, int]]:
    """What one life acknowledged before SIGKILL, `pause_s` after its first word."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(folder), str(first)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(pause_s)
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    whole, _, _ = said.rpartition(b"\n")  # a torn last line acknowledges nothing
    words = [line.decode().split() for line in whole.splitlines()]
    return [(kind, int(step), name, int(number)) for kind, step, name, number in words]


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    rng = random.Random(5)
    acknowledged: list[tuple[str, int, str, int]] = []
    for life in range(N_KILLS):
        steps = [step for _, step, _, _ in acknowledged]
        first = max(0, max(steps, default=0) - 2 - life % 3)
        acknowledged += live_until_killed(tmp_path, first, rng.uniform(*PUSHES_S))
        with open_store(tmp_path, wait_s=0) as store:  # at once: nothing to clean up by hand
            for step in {step for kind, step, _, _ in acknowledged if kind == "push"}:
                there = {name for kind, at, name, _ in acknowledged if (kind, at) == ("push", step)}
                assert not there & {each.partition("/")[0] for each in store.probe("run", step).missing}
            events = {line.position: line for line in store.events("run", limit=100_000)}
            assert all(events[step + 1] == event_at(step) for kind, step, _, _ in acknowledged if kind == "event")
            versions = {name for kind, _, name, _ in acknowledged if kind == "version"}
            assert versions <= {each.id for each in store.versions()}
        assert not list((tmp_path / "blobs" / "incoming").iterdir()) and not list(tmp_path.glob(".*.tmp"))
    pushes = [(step, name) for kind, step, name, _ in acknowledged if kind == "push"]
    assert len(set(pushes)) > N_KILLS and len(pushes) > len(set(pushes))  # some were repeated over lives
    new = [(step, name) for kind, step, name, number in acknowledged if (kind, number) == ("push", 1)]
    assert len(new) == len(set(new)), "a push was counted twice"
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = connection.execute("SELECT step, dataset FROM pushes").fetchall()
        positions = [at for (at,) in connection.execute("SELECT position FROM events ORDER BY position")]
    assert len(stored) == len(set(stored)) and set(pushes) <= set(stored)
    assert positions == list(range(1, len(positions) + 1))
    with open_store(tmp_path) as store:
        for step, name in stored:
            assert store.push(key_of(step, name), payload_of(step, name)) is False  # its very bytes
        assert store.group("run", 0, OPTIONS).datasets == list(DATASETS)
