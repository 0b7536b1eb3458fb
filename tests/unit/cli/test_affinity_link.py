"""Which store a recipe means, what its runs are called there, and the marks of probes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.affinity.http import HttpTransport
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.store.lock import writer_lock
from pipeline.cli.affinity_link import RunLink, arm_record, connect, probe_publication, window_publication
from pipeline.cli.probe_mark import ProbeMark, mark_path, read_mark, write_mark
from pipeline.config import Recipe, load_recipe
from pipeline.dist import free_port
from pipeline.errors import AffinityError
from pipeline.runlog import EventLog
from tests.unit.affinity.publishing import DATASETS, make_stats

TEXT = "arm: gst-g3\nmodel: {path: m}\ndata: {shards: s}\ntrain: {max_steps: 10, seed: 2}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def load(*overrides: str) -> Recipe:
        (tmp_path / "recipe.yaml").write_text(f"{TEXT}out: {tmp_path / 'my exp'}\n")
        return load_recipe(tmp_path / "recipe.yaml", overrides)

    return load


def test_the_store_is_the_folders_own_unless_a_service_is_named(recipe, tmp_path: Path) -> None:
    local = connect(recipe())
    assert isinstance(local, LocalTransport) and local.folder == tmp_path / "my exp" / "affinity"
    named = connect(recipe("service.url=http://127.0.0.1:1"))
    assert isinstance(named, HttpTransport) and named.url == "http://127.0.0.1:1"


def test_a_service_that_was_killed_does_not_keep_jobs_from_their_store(recipe, tmp_path: Path) -> None:
    folder = tmp_path / "my exp" / "affinity"
    folder.mkdir(parents=True)
    with writer_lock(folder, wait_s=0, url=f"http://127.0.0.1:{free_port()}"):
        note = (folder / "writer.lock").read_bytes()
    (folder / "writer.lock").write_bytes(note)  # as SIGKILL leaves it
    transport = connect(recipe())
    assert isinstance(transport, LocalTransport) and transport.runs() == []


def test_names_in_a_store(recipe) -> None:
    record = arm_record(recipe(), DATASETS)
    assert (record.name, record.project, record.arm, record.seed) == ("my-exp-gst-g3-s2", "my-exp", "gst-g3", 2)
    assert record.config_digest and record == arm_record(recipe("service.retries=1"), DATASETS)
    assert record != arm_record(recipe("train.optimizer.lr=0.5"), DATASETS)
    assert arm_record(recipe("service.project=team/a"), DATASETS).name == "team-a-gst-g3-s2"
    stats = replace(make_stats(), source="0123456789abcdef", cost={"samples": 3, "seconds": 1.5})
    shared = recipe("service.contributors=[one, two]", "service.contributor=two")
    publication = probe_publication(shared, stats)
    assert publication.run.name == "my-exp-probe-01234567" and publication.contributor == "two"
    assert publication.probe.contributors == ("one", "two") and publication.probe.cost == {"samples": 3, "seconds": 1.5}


def test_a_window_publishes_what_it_saw(recipe) -> None:
    stats, run = make_stats(), arm_record(recipe(), DATASETS)
    some = replace(stats, batches=None, count=stats.count * [1, 0, 1])
    publication = window_publication(run, 50, "source", some)
    assert publication is not None
    assert publication.probe.datasets == ("a", "c") and publication.probe.kind == "window"
    assert window_publication(run, 50, "source", replace(some, count=stats.count * 0)) is None


def test_a_link_sends_events_and_windows_where_these_are_wanted(recipe, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", 0)
    log.write("eval", step=0)
    stats = replace(make_stats(), batches=None)
    link = RunLink(recipe(), DATASETS, tmp_path / "run", "source")
    link.publish_window(stats, 50)
    assert link.close() is None
    silent = RunLink(recipe("service.push_windows=false"), DATASETS, tmp_path / "run", "source")
    silent.publish_window(stats, 100)
    assert silent.close() is None
    (run,) = LocalTransport(tmp_path / "my exp" / "affinity").runs()
    assert run.probes == (50,) and run.events == log.path.stat().st_size


def test_a_mark_comes_back_and_each_contributor_has_its_own(recipe, tmp_path: Path) -> None:
    mark = ProbeMark(run="r", step=3, contributor="main", source="s", spec={"k": 64}, cost={"samples": 1})
    assert read_mark(recipe()) is None
    write_mark(recipe(), mark)
    assert read_mark(recipe()) == mark
    assert mark_path(recipe()) == tmp_path / "my exp" / "probe" / "probe.json"
    second = recipe("service.contributors=[main, two]", "service.contributor=two")
    assert mark_path(second).name == "probe-two.json" and read_mark(second) is None
    mark_path(recipe()).write_text(json.dumps({"source": "s", "format": 2}))  # of an older version
    assert read_mark(recipe()) is None
    mark_path(recipe()).write_text("{")
    with pytest.raises(AffinityError, match="cannot be read"):
        read_mark(recipe())
