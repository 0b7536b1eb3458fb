"""The folder of copies: one download a machine, nothing half, no more than its limit, nothing removed that is read."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.config.schema import CacheConfig
from pipeline.data.index import ShardIndex
from pipeline.data.manifest import ShardEntry
from pipeline.data.shard_cache import ShardCache, default_folder
from pipeline.errors import ConfigError, ShardError

from .web import STALL_S, Web, serve

ROOT = Path(__file__).resolve().parents[3]
SIZE_BYTES = 1000
READ = """
import sys
from pipeline.config.schema import CacheConfig
from pipeline.data.index import ShardIndex
url, folder, start = sys.argv[1:]
index = ShardIndex(url, ["beta"], cache=CacheConfig(folder=folder, wait_s=0.01, timeout_s=300))
print("ready", flush=True)
sys.stdin.readline()
print(*[index.read("beta", "train", i).id for i in range(int(start), 13)], flush=True)
"""


def contents(n: int) -> bytes:
    return bytes([n]) * SIZE_BYTES


def shard(n: int) -> ShardEntry:
    return ShardEntry(file=f"{n}.tar", n_samples=1, n_bytes=SIZE_BYTES, sha256=sha256(contents(n)).hexdigest())


def writer(n: int) -> Callable[[BinaryIO], None]:
    def download(file: BinaryIO) -> None:
        file.write(contents(n))

    return download


def no_download(file: BinaryIO) -> None:
    raise AssertionError("it is there")


def read(cache: ShardCache, n: int) -> bytes:
    with cache.open(shard(n), writer(n)) as handle:
        return os.pread(handle, SIZE_BYTES, 0)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    """With room for three shards."""
    return ShardCache(CacheConfig(folder=str(tmp_path), max_gb=3.5 * SIZE_BYTES / 1e9))


def kept(cache: ShardCache) -> set[int]:
    return {n for n in range(10) if cache.holds(shard(n))}


def test_the_shards_read_longest_ago_leave(cache: ShardCache) -> None:
    for n in (1, 2, 3, 1, 4):
        assert read(cache, n) == contents(n)
    assert kept(cache) == {1, 3, 4}
    read(cache, 5)
    assert kept(cache) == {1, 4, 5}


def test_a_shard_that_is_being_read_stays(cache: ShardCache) -> None:
    with cache.open(shard(1), writer(1)) as handle:
        for n in (2, 3, 4, 5):
            read(cache, n)
        assert kept(cache) == {1, 4, 5}
        assert os.pread(handle, SIZE_BYTES, 0) == contents(1)
    read(cache, 6)
    assert kept(cache) == {4, 5, 6}


def test_a_shard_that_is_being_fetched_counts_and_stays(cache: ShardCache) -> None:
    def download(file: BinaryIO) -> None:
        for n in (2, 3, 4):
            read(cache, n)
        assert kept(cache) == {3, 4}
        file.write(contents(1))

    with cache.open(shard(1), download) as handle:
        assert os.pread(handle, SIZE_BYTES, 0) == contents(1)
    assert kept(cache) == {1, 3, 4}


def test_a_shard_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    small = ShardCache(CacheConfig(folder=str(tmp_path), max_gb=0.5 * SIZE_BYTES / 1e9))
    with pytest.raises(ShardError, match=r"(?s)larger.*data\.cache\.max_gb.*mode=ranges"):
        read(small, 1)
    assert not list((tmp_path / "shards").iterdir())


def test_a_download_that_fails_leaves_nothing(cache: ShardCache) -> None:
    def download(file: BinaryIO) -> None:
        file.write(contents(1)[:500])
        raise ShardError("the network is gone")

    with pytest.raises(ShardError, match="network"), cache.open(shard(1), download):
        pass
    assert not list((cache.folder / "shards").iterdir())
    assert read(cache, 1) == contents(1)


def test_a_full_disk_is_named(cache: ShardCache) -> None:
    def download(file: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    says = r"(?s)cannot be written.*No space left.*data\.cache\.max_gb"
    with pytest.raises(ShardError, match=says), cache.open(shard(1), download):
        pass


def test_nobody_waits_for_ever_for_another_process(tmp_path: Path) -> None:
    hasty = ShardCache(CacheConfig(folder=str(tmp_path), give_up_s=0.1, timeout_s=0.1))
    with open(tmp_path / "locks" / shard(1).sha256, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ShardError, match="another process"):
            read(hasty, 1)
    assert read(hasty, 1) == contents(1)


def test_a_manifest_cannot_name_a_file_outside(cache: ShardCache) -> None:
    evil = shard(1).model_copy(update={"sha256": "../../evil"})
    with pytest.raises(ShardError, match="without a sha256"), cache.open(evil, writer(1)):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache\.folder"):
        ShardCache(CacheConfig(folder=str(tmp_path / "file")))


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "audio-gst"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "audio-gst"


@pytest.fixture
def web(shards: Path) -> Iterator[Web]:
    with serve(shards) as server:
        yield server


def start(web: Web, folder: Path, first: int = 0) -> subprocess.Popen[str]:
    """A process that has its index, and reads all of beta when it is told to."""
    command = [sys.executable, "-c", READ, web.url, str(folder), str(first)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_two_processes_download_a_shard_once(index: ShardIndex, web: Web, tmp_path: Path) -> None:
    processes = [start(web, tmp_path), start(web, tmp_path)]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    read_ids = [process.communicate(timeout=STALL_S)[0].split() for process in processes]
    assert read_ids == [[index.example_id("beta", "train", i) for i in range(13)]] * 2
    for end in ("tar", "json"):
        assert [web.gets(f"beta-train-00000{n}.{end}") for n in range(3)] == [1, 1, 1]


def test_a_download_that_is_killed_leaves_no_half_file(index: ShardIndex, web: Web, tmp_path: Path) -> None:
    web.faults["beta-train-000000.tar"].append("stall")
    process = start(web, tmp_path)
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()
    assert web.stalled.wait(STALL_S)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    (half,) = [path for path in (tmp_path / "shards").iterdir() if path.suffix != ".json"]
    assert half.suffix == ".tmp"

    again = ShardIndex(web.url, ["beta"], cache=CacheConfig(folder=str(tmp_path)))
    assert not half.exists()
    ids = [again.read("beta", "train", i).id for i in range(13)]
    assert ids == [index.example_id("beta", "train", i) for i in range(13)]
    copies = [path for path in (tmp_path / "shards").iterdir() if path.suffix != ".json"]
    assert len(copies) == 3
    assert all(sha256(path.read_bytes()).hexdigest() == path.stem for path in copies)
