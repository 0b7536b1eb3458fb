"""Which checkpoint a run finds after a kill at any moment of writing one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dist import SingleProcess
from pipeline.engine.checkpoint import MARK, CheckpointStore
from pipeline.errors import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, SingleProcess(), {}, keep=2)


def put(store: CheckpointStore, name: str, content: str, *, complete: bool = True) -> Path:
    folder = store.folder / name
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(content)
    if complete:
        (folder / MARK).write_text("{}")
    return folder


def test_the_newest_complete_one_is_found(store: CheckpointStore) -> None:
    assert store.latest() is None
    put(store, "step-000004", "4")
    put(store, "step-000008", "8")
    put(store, "step-000012", "12", complete=False)
    put(store, ".draft-000016", "16")
    assert store.latest() == store.at(8)
    assert store.find(4) == store.at(4)
    with pytest.raises(CheckpointError, match="step 12"):
        store.find(12)


def test_a_kill_between_the_renames_of_one_saved_again_loses_nothing(store: CheckpointStore) -> None:
    put(store, ".aside-step-000008", "the first time")
    put(store, ".draft-000008", "the second time")
    assert store.latest() == store.at(8)
    assert (store.at(8) / "state.json").read_text() == "the first time"


def test_a_kill_after_the_renames_of_one_saved_again_leaves_the_new_one(store: CheckpointStore) -> None:
    aside = put(store, ".aside-step-000008", "the first time")
    put(store, "step-000008", "the second time")
    assert store.latest() == store.at(8)
    assert (store.at(8) / "state.json").read_text() == "the second time"
    assert not aside.exists()
