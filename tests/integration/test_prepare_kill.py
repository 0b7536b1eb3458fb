"""`gst-data prepare` is killed, runs out of disk, or runs twice at once: whole shards only, and a restart mends it."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.data.manifest import ShardSide, read_model
from tests.bench.common import ROOT, differing, tree_digests
from tests.bench.prepare_kills import prepare_words, start, survive_kills, write_kill_corpus

N_KILLS = 20
FILE_LIMIT_BYTES = 1_000_000
DISK_BYTES = 1_500_000
ON_SMALL_DISK = """
mount -t tmpfs -o size=$1 none "$2" || exit
out=$2; kept=$3; shift 3
"$@"; code=$?
cp -a "$out" "$kept"; exit $code
"""

Run = Callable[[list[str], Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kill_corpus(tmp_path_factory.mktemp("corpus"), train=40, held_out=10)


@pytest.fixture
def long_clips(corpus: Path, tmp_path: Path) -> Path:
    """The same corpora, but the clips of one validation split are long: their shards do not fit."""
    folder = tmp_path / "long"
    shutil.copytree(corpus, folder)
    for path in (folder / "height" / "audio").glob("*-val-*"):
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 20), 16_000)
    return folder


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def prepare(corpus: Path, out: Path, *more: object) -> dict[str, str]:
    done = run(prepare_words(corpus, out, *more))
    assert done.returncode == 0, done.stderr
    return tree_digests(out)


def is_temporary(path: str) -> bool:
    return path.endswith(".tmp") or "/." in path


@pytest.mark.long
@pytest.mark.slow
def test_twenty_kills_leave_no_trace(corpus: Path, tmp_path: Path) -> None:
    report = survive_kills(corpus, tmp_path, n_kills=N_KILLS, seed=14)
    assert report.kills == N_KILLS
    assert report.middle > 0  # else the moments were all before the first shard or after the manifest
    assert report.differing == ()
    assert not [path for path in tree_digests(tmp_path / "clean") if is_temporary(path)]


def with_small_files(words: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    """No file may grow beyond a limit, as under a quota: the error comes in the middle of a shard."""
    limits = (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES)
    return run(words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def on_small_disk(words: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    """`out` is a file system of its own, that is copied away before it goes with its namespace."""
    out.mkdir()
    kept = out.with_name("kept")
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_SMALL_DISK, "sh"]
    done = run([*namespace, str(DISK_BYTES), str(out), str(kept), *words])
    if not kept.exists():
        pytest.skip(f"a file system of one's own is not permitted here: {done.stderr.strip()}")
    shutil.copytree(kept, out, dirs_exist_ok=True)
    return done


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("run_in", [with_small_files, on_small_disk])
def test_a_full_disk_leaves_whole_shards_and_an_error(long_clips: Path, tmp_path: Path, run_in: Run, jobs: int) -> None:
    out = tmp_path / "out"
    done = run_in(prepare_words(long_clips, out, "--jobs", jobs), out)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "whole shards are kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tree_digests(out) if is_temporary(path)]
    assert not (out / "height/manifest.json").exists()
    tars = sorted(out.rglob("*.tar"))
    whole = tree_digests(out)
    for tar in tars:
        assert read_model(tar.with_suffix(".json"), ShardSide).sha256 == whole[tar.relative_to(out).as_posix()]
    assert tars
    assert differing(prepare(long_clips, out), prepare(long_clips, tmp_path / "clean")) == []


def test_two_at_once_write_the_same(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    logs = [tmp_path / f"log{number}" for number in range(2)]
    both = [start(prepare_words(corpus, out), log) for log in logs]
    for process, log in zip(both, logs, strict=True):
        assert process.wait() == 0, log.read_text()
    assert differing(tree_digests(out), prepare(corpus, tmp_path / "clean")) == []
