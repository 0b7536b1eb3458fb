"""Shards behind a URL give what a folder gives, whatever the network does, or say why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.config import dump_recipe, load_recipe, recipe_digest
from pipeline.config.schema import CacheConfig
from pipeline.config.urls import join, without_secrets
from pipeline.data.index import ShardIndex
from pipeline.data.manifest import MANIFEST_NAME
from pipeline.dist import SingleProcess
from pipeline.errors import ConfigError, ShardError

from .test_loader import world
from .web import Web, serve

TAR, SIDE = "beta-train-000000.tar", "beta-train-000000.json"
PLENTY_S = 300.0  # of tests whose requests shall not run out of time on a busy machine


def options(folder: Path, **changes: Any) -> CacheConfig:
    """The defaults, but that nobody waits long before another try."""
    return CacheConfig(**({"folder": str(folder / "cache"), "wait_s": 0.001, "timeout_s": PLENTY_S} | changes))


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(shards, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def web(own: Path) -> Iterator[Web]:
    """A server over shards that may be changed."""
    with serve(own) as server:
        yield server


@pytest.fixture(params=["memory", "http"])
def url(request: pytest.FixtureRequest, shards: Path, tmp_path: Path) -> Iterator[str]:
    """The shards of `index` in another place."""
    if request.param == "http":
        with serve(shards) as server:
            yield server.url
        return
    place = f"memory://{tmp_path.name}"
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), place, recursive=True)
    yield place
    memory.rm(place, recursive=True)


def content(index: ShardIndex) -> dict[str, Any]:
    """All that an index gives."""
    parts = [(name, split) for name in index.datasets for split in ("train", "val")]
    every = [(*part, i) for part in parts for i in range(index.n_examples(*part))]
    examples = [index.read(*each) for each in every]
    return {
        "digests": index.digests,
        "questions": [(each.id, each.dataset, each.question, each.answers, each.task) for each in examples],
        "audio": [(each.sample_rate_hz, each.audio.tobytes()) for each in examples],
        "qa": [index.read_qa(*each) for each in every],
        "tasks": [index.tasks(name, "train") for name in index.datasets],
        "durations": [index.durations_s(name, "train").tolist() for name in index.datasets],
    }


@pytest.mark.parametrize("mode", ["shards", "ranges"])
def test_a_url_gives_what_the_folder_gives(index: ShardIndex, url: str, mode: str, tmp_path: Path) -> None:
    remote = ShardIndex(url, cache=options(tmp_path, mode=mode))
    assert content(remote) == content(index)
    copied = list((tmp_path / "cache" / "shards").glob("*.tar"))
    assert len(copied) == (10 if mode == "shards" else 0)


@pytest.mark.parametrize("mode", ["shards", "ranges"])
def test_a_loader_draws_the_same_examples(index: ShardIndex, url: str, mode: str, tmp_path: Path) -> None:
    remote = ShardIndex(url, cache=options(tmp_path, mode=mode))
    with world(index) as local, world(remote, world_size=2, workers=2) as far:
        assert far.steps(6) == local.steps(6)
        assert far.state() == local.state()


FAULTS = ["drop", "cut", "less", 500, 503, 429]


@pytest.mark.parametrize("mode", ["shards", "ranges"])
def test_what_goes_wrong_on_the_way_is_tried_again(index: ShardIndex, web: Web, mode: str, tmp_path: Path) -> None:
    for end in (f"beta/{MANIFEST_NAME}", SIDE, TAR):
        web.faults[end].extend(FAULTS)
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path, mode=mode, tries=8))
    got, wanted = remote.read("beta", "train", 0), index.read("beta", "train", 0)
    assert got.id == wanted.id and np.array_equal(got.audio, wanted.audio)
    assert not any(web.faults.values())
    assert web.gets(TAR) == len(FAULTS) + 1


def test_a_server_that_stalls_is_asked_again(web: Web, tmp_path: Path) -> None:
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path))
    remote.store._files._options = options(tmp_path, timeout_s=2.0, tries=50)  # the index was made at leisure
    web.faults[TAR].append("stall")
    assert remote.read("beta", "train", 0).dataset == "beta"
    assert web.stalled.is_set() and web.gets(TAR) >= 2


@pytest.mark.parametrize(("fault", "says"), [("drop", "Disconnected"), (500, "500"), ("stall", "within 0.2 s")])
def test_a_store_that_stays_away_is_an_error_with_all_tries(web: Web, fault: str, says: str, tmp_path: Path) -> None:
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path, mode="ranges"))
    patience = options(tmp_path, mode="ranges", tries=5, timeout_s=0.2 if fault == "stall" else PLENTY_S)
    remote.store._files._options = patience
    web.faults[TAR].extend([fault] * 20)
    with pytest.raises(ShardError, match=rf"(?s)url: {web.url}/beta/{TAR}.*tried: 5 times in .*{says}"):
        remote.read("beta", "train", 0)


def test_time_limits_hold_for_all_tries_together(web: Web, tmp_path: Path) -> None:
    web.faults[MANIFEST_NAME].extend([500] * 100)
    patience = options(tmp_path, tries=100, wait_s=1000.0, give_up_s=10.0)
    with pytest.raises(ShardError, match="tried: 1 times"):
        ShardIndex(web.url, ["beta"], cache=patience)


@pytest.mark.parametrize(("status", "says"), [(404, "is missing"), (403, "refuses"), (401, "credentials")])
def test_what_no_further_try_can_help_is_tried_once(web: Web, status: int, says: str, tmp_path: Path) -> None:
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path, mode="ranges"))
    before = web.gets(TAR)
    web.faults[TAR].extend([status] * 9)
    with pytest.raises(ShardError, match=says) as caught:
        remote.read("beta", "train", 0)
    assert f"{web.url}/beta/{TAR}" in str(caught.value)
    assert web.gets(TAR) == before + 1


@pytest.mark.parametrize("name", [TAR, SIDE])
def test_a_missing_file_is_refused_by_name(own: Path, web: Web, name: str, tmp_path: Path) -> None:
    (own / "beta" / name).unlink()
    with pytest.raises(ShardError, match=rf"(?s)missing.*{web.url}/beta/{name}"):
        ShardIndex(web.url, cache=options(tmp_path))


@pytest.mark.parametrize("mode", ["shards", "ranges"])
def test_a_shard_of_another_size_is_refused(own: Path, web: Web, mode: str, tmp_path: Path) -> None:
    tar = own / "beta" / TAR
    whole = tar.read_bytes()
    tar.write_bytes(whole[:2048])
    with pytest.raises(ShardError, match=rf"(?s)recorded size.*{TAR}.*got: 2048 bytes.*expected: {len(whole)} bytes"):
        ShardIndex(web.url, cache=options(tmp_path, mode=mode))


def test_a_shard_with_other_content_is_refused_and_not_kept(own: Path, web: Web, tmp_path: Path) -> None:
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path))
    tar = own / "beta" / TAR
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match=rf"(?s)not the one that the manifest lists.*{TAR}.*sha256"):
        remote.read("beta", "train", 0)
    assert not [path for path in (tmp_path / "cache" / "shards").iterdir() if path.suffix != ".json"]


def test_a_shard_that_is_cut_while_clips_are_read_is_refused(own: Path, web: Web, tmp_path: Path) -> None:
    remote = ShardIndex(web.url, ["beta"], cache=options(tmp_path, mode="ranges"))
    (own / "beta" / TAR).write_bytes(b"short")
    with pytest.raises(ShardError, match=rf"(?s){TAR}.*416.*did not change"):
        remote.read("beta", "train", 0)


def test_a_side_file_of_another_shard_is_refused_and_not_kept(
    index: ShardIndex, own: Path, web: Web, tmp_path: Path
) -> None:
    shutil.copy(own / "beta" / "beta-train-000001.json", own / "beta" / SIDE)
    with pytest.raises(ShardError, match=rf"(?s)side file contradicts.*{TAR}"):
        ShardIndex(web.url, ["beta"], cache=options(tmp_path))
    first = index.manifests["beta"].splits["train"].shards[0]
    assert not (tmp_path / "cache" / "shards" / f"{first.sha256}.json").exists()


def test_many_threads_and_indexes_copy_a_shard_once(web: Web, tmp_path: Path) -> None:
    indexes = [ShardIndex(web.url, ["beta"], cache=options(tmp_path)) for _ in range(3)]
    assert web.gets(SIDE) == 1
    jobs = [(each, i) for each in indexes for i in range(13)]
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda job: job[0].read("beta", "train", job[1]).id, jobs))
    assert ids[:13] == ids[13:26] == ids[26:] and len(set(ids)) == 13
    assert [web.gets(f"beta-train-00000{n}.tar") for n in range(3)] == [1, 1, 1]
    assert web.gets(f"beta/{MANIFEST_NAME}") == 3  # what may change is asked for every time


def test_copies_outlive_the_server(index: ShardIndex, web: Web, tmp_path: Path) -> None:
    content(ShardIndex(web.url, cache=options(tmp_path)))
    for name in (".tar", "train-000000.json"):
        web.faults[name].extend([500] * 50)
    assert content(ShardIndex(web.url, cache=options(tmp_path))) == content(index)


@pytest.mark.parametrize("suffix", ["tar", "json"])
def test_a_damaged_copy_is_fetched_again(index: ShardIndex, web: Web, suffix: str, tmp_path: Path) -> None:
    content(ShardIndex(web.url, ["alpha"], cache=options(tmp_path)))
    for copy in (tmp_path / "cache" / "shards").glob(f"*.{suffix}"):
        copy.write_bytes(copy.read_bytes()[:100])
    assert content(ShardIndex(web.url, ["alpha"], cache=options(tmp_path)))["audio"]


def test_a_server_without_ranges_serves_whole_shards_only(index: ShardIndex, web: Web, tmp_path: Path) -> None:
    web.ranges = False
    assert content(ShardIndex(web.url, cache=options(tmp_path))) == content(index)
    with pytest.raises(ShardError, match=r"(?s)whole files.*mode=shards"):
        ShardIndex(web.url, cache=options(tmp_path, mode="ranges")).read("beta", "train", 0)


def test_a_server_without_listings_needs_the_names(web: Web, tmp_path: Path) -> None:
    web.listings = False
    assert ShardIndex(web.url, ["gamma", "alpha"], cache=options(tmp_path)).datasets == ("gamma", "alpha")
    with pytest.raises(ShardError, match=r"data\.datasets="):
        ShardIndex(web.url, cache=options(tmp_path))
    with pytest.raises(ShardError, match=r"(?s)unknown dataset.*alpha"):
        ShardIndex(web.url, ["alpha", "delta"], cache=options(tmp_path))


def test_an_unfinished_or_unknown_dataset_is_as_in_a_folder(own: Path, url: str, web: Web, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"(?s)unknown dataset.*alfa.*alpha, beta, gamma.*did you mean alpha"):
        ShardIndex(url, ["alfa"], cache=options(tmp_path))
    (own / "beta" / MANIFEST_NAME).unlink()
    assert ShardIndex(web.url, cache=options(tmp_path)).datasets == ("alpha", "gamma")


@pytest.mark.parametrize("place", ["memory://nothing-here", "http://127.0.0.1:9/no-server"])
def test_an_empty_or_absent_place_is_an_error(place: str, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=place):
        ShardIndex(place, cache=options(tmp_path))


def test_a_file_url_is_the_folder(index: ShardIndex, shards: Path) -> None:
    assert content(ShardIndex(f"file://{shards}")) == content(index)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("oci://bucket/shards", "pip install ocifs"),
        ("smb://host/shards", r"pip install 'fsspec\[smb\]'"),
        ("nosuch://x", "Protocol not known"),
        ("https://host/shards?signature=abc", "no query"),
    ],
)
def test_a_protocol_that_cannot_be_read_says_what_to_do(place: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ShardIndex(place, cache=options(tmp_path))
    assert caught.value.where["key"] == "data.shards" and "abc" not in str(caught.value)


def test_passwords_are_used_and_not_shown(web: Web, tmp_path: Path) -> None:
    place = web.url.replace("://", "://reader:secret@")
    remote = ShardIndex(place, ["beta"], cache=options(tmp_path, mode="ranges"))
    web.faults[TAR].extend([500] * 9)
    with pytest.raises(ShardError) as caught:
        remote.read("beta", "train", 0)
    for text in (str(caught.value), str(remote.shards), str(remote.store.place(0))):
        assert "secret" not in text and "127.0.0.1" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://u:secret@host/x", "ftp://u@host/x"),
        ("sftp://u:se@cret@host/x", "sftp://u@host/x"),
        ("https://token@host/x and https://u:pw@h:80/a@b", "https://host/x and https://h:80/a@b"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("url='https://host/x?sig=secret'", "url='https://host/x?...'"),
        ("s3://bucket/shards", "s3://bucket/shards"),
        ("a folder/with@sign", "a folder/with@sign"),
    ],
)
def test_secrets_in_urls(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_place_and_a_name_are_joined() -> None:
    assert join("s3://b/shards/", "alpha") == "s3://b/shards/alpha"
    assert join("shards/", "alpha") == str(Path("shards") / "alpha")


def test_a_recipe_is_saved_without_passwords_and_known_without_its_cache() -> None:
    words = ["out=o", "model.path=m"]
    recipe = load_recipe("mini-mix-all", [*words, "data.shards=ftp://u:secret@host/x"])
    assert recipe.data.shards == "ftp://u:secret@host/x"
    assert "secret" not in dump_recipe(recipe)
    other = load_recipe("mini-mix-all", [*words, "data.shards=ftp://u:other@host/x", "data.cache.mode=ranges"])
    assert recipe_digest(other) == recipe_digest(recipe)


class _Other(SingleProcess):
    """A second rank that found something else."""

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, {**value, "beta": "another"}]


def test_ranks_that_see_different_data_stop_together(shards: Path) -> None:
    from pipeline.cli.session import Data

    data = Data(load_recipe("mini-mix-all", ["out=o", "model.path=m", f"data.shards={shards}"]))
    data.require_same(SingleProcess())
    with pytest.raises(ShardError, match=r"(?s)different prepared data.*datasets: beta\n"):
        data.require_same(_Other())
