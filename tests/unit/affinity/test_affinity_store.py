"""The affinity store: idempotent, immutable, one writer, intact after a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import EventLine, ProbeRecord, RunRecord, SketchKey
from pipeline.affinity.store.database import MIGRATIONS
from pipeline.affinity.store.lock import lock_holder, writer_lock
from pipeline.affinity.store.store import AffinityStore, open_store
from pipeline.affinity.versions import AffinityVersion, save_version
from pipeline.atomic import temporary_path
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError, ConflictError, MissingError, PayloadError, StoreBusyError, StoreFullError
from tests.launching import ROOT, environment

K = 64
DATASETS = ("a", "b", "c", "d")
SPEC: dict[str, str | int] = {"k": K, "seed": 0, "version": 1, "gradient": "raw", "model": ""}
RUN = RunRecord(name="run", project="exp", arm="gst", seed=1, datasets=DATASETS)
PROBE = ProbeRecord(run="run", step=0, datasets=DATASETS, spec=SPEC, source="abc", cost={"seconds": 2.0})
OPTIONS = AffinityConfig(groups=2, bootstrap=10)


def make_stats(seed: int = 0, batches: int = 6) -> GradientStats:
    """Four datasets in two clear pairs."""
    rng = np.random.default_rng(seed)
    means = {name: np.eye(K)[number // 2] * 5 for number, name in enumerate(DATASETS)}
    rows = {name: mean + 0.1 * rng.standard_normal((batches, K)) for name, mean in means.items()}
    return GradientStats.from_batches(rows, dict(SPEC))


STATS = make_stats()


def key(dataset: str, contributor: str = "main", probe: ProbeRecord = PROBE) -> SketchKey:
    return SketchKey(
        run=probe.run, step=probe.step, dataset=dataset, contributor=contributor, spec=probe.spec_digest
    )  # fmt: skip


def fill(store: AffinityStore, stats: GradientStats = STATS, probe: ProbeRecord = PROBE) -> None:
    store.declare_run(RUN)
    store.declare_probe(probe)
    for name in probe.datasets:
        store.push(key(name, probe=probe), dump_contribution(stats, name))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AffinityStore]:
    with open_store(tmp_path / "affinity") as opened:
        yield opened


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def python(code: str, *words: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **options,
    )  # type: ignore[call-overload] # fmt: skip


def test_what_a_group_answers_is_what_the_probe_gives_without_a_store(store: AffinityStore) -> None:
    fill(store)
    version = store.group("run", 0, OPTIONS)
    direct = compute_version(replace(STATS, source=PROBE.source, cost=dict(PROBE.cost)), OPTIONS)
    assert version.inputs == direct.inputs
    assert (version.source, version.cost) == ("abc", {"seconds": 2.0})
    assert sorted(map(sorted, version.groups)) == [["a", "b"], ["c", "d"]]
    assert np.allclose(version.estimate.gram, direct.estimate.gram)


def test_a_version_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def counted(stats: GradientStats, options: AffinityConfig, *, inputs: str) -> AffinityVersion:
        computed.append(options.groups)
        return compute_version(stats, options, inputs=inputs)

    monkeypatch.setattr("pipeline.affinity.store.store.compute_version", counted)
    with open_store(tmp_path) as store:
        fill(store)
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(lambda _: store.group("run", 0, OPTIONS).id, range(4)))
        store.group("run", 0, AffinityConfig(groups=3, bootstrap=10))
        assert len(found) == 1 and computed == [2, 3]
    with open_store(tmp_path) as store:
        again = store.group("run", 0, OPTIONS)
        assert {again.id} == found and computed == [2, 3]
        assert (tmp_path / "latest").read_text().strip() == again.id
        # The same sketches under another step: found by what it would be computed from.
        fill(store, probe=PROBE.model_copy(update={"step": 5}))
        assert store.group("run", 5, OPTIONS).id == again.id and computed == [2, 3]
        first = store.versions()[0]
        assert (first.id, first.run, first.step) == (again.id, "run", 0)
        assert store.runs()[0].probes == (0, 5)


def test_versions_that_lie_there_already_are_indexed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = compute_version(replace(STATS, source="abc"), OPTIONS)
    other = compute_version(STATS, AffinityConfig(groups=3, bootstrap=10))
    save_version(tmp_path, version)
    save_version(tmp_path, other)
    (tmp_path / f"{other.id}.json").write_text("{}")
    (tmp_path / "v-nothing.json").write_text("{}")
    with open_store(tmp_path) as store:
        (summary,) = store.versions()
        assert (summary.id, summary.run, summary.datasets, summary.groups) == (version.id, None, 4, 2)
        fill(store)
        assert store.group("run", 0, OPTIONS).id == version.id
        assert (store.versions()[0].run, store.versions()[0].step) == ("run", 0)
        assert other.id not in [each.id for each in store.versions()]
    LocalTransport(tmp_path).runs()
    assert [other.id in record.getMessage() for record in caplog.records] == [True]  # said once
    for suffix in ("json", "safetensors"):
        (tmp_path / f"{version.id}.{suffix}").unlink()
    with open_store(tmp_path) as store:
        assert store.versions() == []
        with pytest.raises(MissingError):
            store.version(version.id)
        assert store.group("run", 0, OPTIONS).inputs == version.inputs  # made again


def test_a_version_never_changes(store: AffinityStore) -> None:
    fill(store)
    version = store.group("run", 0, OPTIONS)
    before = contents(store.folder)
    assert store.put_version(replace(version, created="later")) is False
    assert contents(store.folder) == before
    path = store.folder / f"{version.id}.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\1" * 8)
    for use in (
        lambda: store.version(version.id),
        lambda: store.put_version(version),
        lambda: store.group("run", 0, OPTIONS),
    ):
        with pytest.raises(AffinityError, match="changed"):
            use()


@pytest.mark.parametrize("odd", ["../secret", "v-", "latest", "", "v-0123456789ab/../v-0123456789ab", "v-0123456789AB"])
def test_odd_version_names_are_refused(store: AffinityStore, odd: str) -> None:
    with pytest.raises(PayloadError, match="not the name"):
        store.version(odd)


def test_stored_sketches_are_checked_when_read_and_mended_by_a_repeated_push(store: AffinityStore) -> None:
    fill(store)
    blob = next((store.folder / "blobs").glob("??/*.safetensors"))
    whole = blob.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        blob.write_bytes(damaged)
        with pytest.raises(AffinityError, match="changed on disk"):
            store.group("run", 0, OPTIONS)
    assert not any(store.push(key(name), dump_contribution(STATS, name)) for name in DATASETS)
    assert blob.read_bytes() == whole
    assert store.group("run", 0, OPTIONS).datasets == list(DATASETS)


def test_contributors_are_added_up_in_the_order_of_their_names(store: AffinityStore) -> None:
    probe = PROBE.model_copy(update={"contributors": ("late", "early")})
    store.declare_run(RUN)
    store.declare_probe(probe)
    assert STATS.batches is not None
    halves = {
        "early": {name: rows[:3] for name, rows in zip(DATASETS, STATS.batches, strict=True)},
        "late": {name: rows[3:] for name, rows in zip(DATASETS, STATS.batches, strict=True)},
    }
    for name, rows in reversed(halves.items()):
        share = GradientStats.from_batches(rows, dict(SPEC))
        for dataset in DATASETS:
            store.push(key(dataset, name, probe), dump_contribution(share, dataset))
    version = store.group("run", 0, OPTIONS)
    assert version.parameters["batches"] == dict.fromkeys(DATASETS, 6)
    whole = compute_version(STATS, OPTIONS)
    assert np.allclose(version.estimate.gram, whole.estimate.gram)
    for name, value in whole.intervals.items():
        assert np.allclose(version.intervals[name], value), name  # the same micro-batches in the same order


def test_many_threads_may_push_and_read_at_once(store: AffinityStore) -> None:
    store.declare_run(RUN)
    probes = [PROBE.model_copy(update={"step": step}) for step in range(6)]
    work = [(probe, name) for probe in probes for name in DATASETS for _ in range(3)]

    def push(item: tuple[ProbeRecord, str]) -> bool:
        probe, name = item
        store.declare_probe(probe)
        store.runs()
        return store.push(key(name, probe=probe), dump_contribution(make_stats(probe.step % 2), name))

    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(push, work))
    assert sum(new) == len(work) / 3
    assert all(store.probe("run", step).is_complete for step in range(6))


def test_many_datasets_keep_the_order_in_which_the_probe_names_them(store: AffinityStore) -> None:
    names = tuple(f"d{number:03d}" for number in range(50))
    rng = np.random.default_rng(0)
    stats = GradientStats.from_batches({name: rng.standard_normal((4, K)) for name in names}, dict(SPEC))
    probe = ProbeRecord(run="run", step=0, datasets=names[::-1], spec=SPEC)
    fill(store, stats, probe)
    version = store.group("run", 0, AffinityConfig(groups=3, bootstrap=10))
    assert version.datasets == list(names[::-1])
    assert np.allclose(np.diag(version.estimate.raw_gram)[::-1], np.square(stats.sum / 4).sum(1))


@contextmanager
def a_process_that_holds(folder: Path, url: str | None) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from pipeline.affinity.store.lock import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), wait_s=0, url=sys.argv[2] or None): print('held', flush=True); input()"
    )
    process = python(code, folder, url or "")
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:8765"])
def test_a_second_writer_is_told_who_writes(tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.affinity.local.WAIT_S", 0.1)
    with a_process_that_holds(tmp_path, url) as process:
        for use in (lambda: LocalTransport(tmp_path).runs(), lambda: open_store(tmp_path).__enter__()):
            with pytest.raises(StoreBusyError) as caught:
                use()
            assert caught.value.where.get("url") == url and caught.value.where["pid"] == process.pid
        process.kill()
        process.wait()
        assert LocalTransport(tmp_path).runs() == []  # the dead hold nothing
    assert lock_holder(tmp_path) == {}


def test_a_forked_child_does_not_keep_the_store_locked(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from pipeline.affinity.store.lock import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), wait_s=0):\n"
        "    if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print('released', flush=True)"
    )
    process = python(code, tmp_path, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "released\n"
        with writer_lock(tmp_path, wait_s=0):
            pass
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with writer_lock(tmp_path, wait_s=0), pytest.raises(StoreBusyError), writer_lock(tmp_path, wait_s=0):
        pass
    entered = threading.Event()

    def wait_for_it() -> None:
        with writer_lock(tmp_path, wait_s=30):
            entered.set()

    with writer_lock(tmp_path, wait_s=0):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not entered.wait(0.1)
    thread.join()
    assert entered.is_set()


PUSH_ALL = """
import sys
from pathlib import Path
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.payload import dump_contribution
from tests.unit.affinity.test_affinity_store import *
transport = LocalTransport(Path(sys.argv[1]))
new = 0
for step in range(2):
    probe = PROBE.model_copy(update={"step": step, "contributors": ("one", "two")})
    transport.declare_run(RUN)
    transport.declare_probe(probe)
    for name in DATASETS:
        for contributor in (sys.argv[2], "one"):
            new += transport.push(key(name, contributor, probe), dump_contribution(make_stats(step), name))
print(new)
"""


def test_two_jobs_push_into_one_store_at_once(tmp_path: Path) -> None:
    jobs = [python(PUSH_ALL, tmp_path, name) for name in ("one", "two")]
    results = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], results
    assert sum(int(out) for out, _ in results) == 2 * len(DATASETS) * 2  # each once, whoever was first
    transport = LocalTransport(tmp_path)
    assert all(transport.probe("run", step).is_complete for step in range(2))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM pushes").fetchone() == (16,)


FILL_UNTIL_FULL = """
import json, sys
from pathlib import Path
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.errors import StoreFullError
from tests.unit.affinity.test_affinity_store import *
folder, acknowledged = Path(sys.argv[1]), []
transport = LocalTransport(folder)
transport.declare_run(RUN)
try:
    for step in range(10_000):
        probe = PROBE.model_copy(update={"step": step})
        transport.declare_probe(probe)
        for name in DATASETS:
            transport.push(key(name, probe=probe), dump_contribution(make_stats(step, 40), name))
            acknowledged.append((step, name))
        if step % 2 == 1:
            transport.group("run", step, OPTIONS)
            transport.append_events("run", [EventLine(position=step + 1, event={"event": "x", "pad": "y" * 5000})])
except StoreFullError as error:
    print(json.dumps({"acknowledged": acknowledged, "says": str(error), "versions": len(transport.versions())}))
"""
FILE_LIMIT_BYTES = 60_000
DISK_BYTES = 600_000
ON_SMALL_DISK = 'mount -t tmpfs -o size=$1 none "$2" || exit; out=$2; kept=$3; shift 3; "$@"; code=$?; cp -a "$out" "$kept"; exit $code'  # noqa: E501


def with_small_files(folder: Path) -> str:
    """No file may grow beyond a limit, as under a quota: here it is the database that hits it."""
    limits = (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES)
    process = python(FILL_UNTIL_FULL, folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out


def on_small_disk(folder: Path) -> str:
    """The store is on a file system of its own, which is copied away before it goes with its namespace."""
    folder.mkdir()
    kept = folder.with_name("kept")
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_SMALL_DISK, "sh"]
    words += [str(DISK_BYTES), str(folder), str(kept), sys.executable, "-c", FILL_UNTIL_FULL, str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    if not kept.exists():
        pytest.skip(f"a file system of one's own is not permitted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return done.stdout


@pytest.mark.parametrize("fill_up", [with_small_files, on_small_disk])
def test_a_full_disk_is_said_and_leaves_the_store_intact(tmp_path: Path, fill_up: Callable[[Path], str]) -> None:
    folder = tmp_path / "affinity"
    report = json.loads(fill_up(folder))
    assert "disk of the affinity store is full" in report["says"] and len(report["acknowledged"]) > 8
    with sqlite3.connect(folder / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = connection.execute("SELECT step, dataset FROM pushes").fetchall()
    assert {tuple(each) for each in report["acknowledged"]} <= set(stored)
    with open_store(folder) as store:
        assert len(store.versions()) == report["versions"] > 0
        for step, name in stored:  # each is there with its own bytes, and pushing goes on
            probe = PROBE.model_copy(update={"step": step})
            assert store.push(key(name, probe=probe), dump_contribution(make_stats(step, 40), name)) is False
        for name in DATASETS:
            store.push(key(name, probe=probe), dump_contribution(make_stats(step, 40), name))
        assert store.group("run", step, OPTIONS).datasets == list(DATASETS)
    assert not [path for path in contents(folder) if path.endswith(".tmp") or "/incoming/" in path]


def test_what_dead_writers_left_half_written_is_removed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    dead = python("pass")
    dead.communicate()
    own = temporary_path(tmp_path / "v-0123456789ab.json").name
    leftover = tmp_path / own.replace(f".{os.getpid()}.", f".{dead.pid}.")
    leftover.write_bytes(b"half")
    (tmp_path / "blobs" / "incoming" / "0123.77").write_bytes(b"half")
    with open_store(tmp_path) as store:
        assert store.probe("run", 0).is_complete
    assert not leftover.exists() and not list((tmp_path / "blobs" / "incoming").iterdir())


def test_a_damaged_or_newer_database_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 100)
    with pytest.raises(AffinityError, match="damaged"), open_store(tmp_path):
        pass
    (tmp_path / "store.db").unlink()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(AffinityError, match="newer version"), open_store(tmp_path):
        pass
    with pytest.raises(AffinityError, match="cannot be read or written"), open_store(tmp_path / "store.db" / "below"):
        pass


def test_a_program_that_locks_the_database_is_named_as_such(store: AffinityStore) -> None:
    store._database._connection.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(store.folder / "store.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusyError, match="another program"):
            store.declare_run(RUN)
        other.execute("ROLLBACK")
    assert store.declare_run(RUN) is True


def test_a_failed_write_takes_everything_back(store: AffinityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.declare_run(RUN)
    lines = [EventLine(position=at, event={"n": at}) for at in (10, 20)]
    store.append_events("run", lines)
    with pytest.raises(ConflictError):
        store.append_events("run", [EventLine(position=20, event={"n": 21}), EventLine(position=30, event={})])
    assert store.events("run") == lines
    assert store.events("run", after=10) == lines[1:] and store.events("run", limit=1) == lines[:1]
    with pytest.raises(MissingError):
        store.events("other")
    assert store.run("run").events == 20
    for odd in (2**70, -(2**70)):
        with pytest.raises(MissingError):
            store.probe("run", odd)
        store.events("run", after=odd, limit=odd)


def test_a_store_that_is_full_says_so_to_every_thread(store: AffinityStore) -> None:
    """SQLite's own limit on the file: the transaction fails as a whole, and reading goes on."""
    fill(store)
    store._database._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFullError):
        store.append_events("run", [EventLine(position=9, event={"text": "x" * 200_000})])
    assert store.events("run") == [] and store.probe("run", 0).is_complete
