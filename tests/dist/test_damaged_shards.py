"""Two-rank runs over shards that are not what they should be: they finish or refuse, and never hang."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.manifest import ShardSide
from pipeline.runlog.events import count_skipped, read_event_lines
from tests.launching import TIMEOUT_S, run_ranks, start_ranks

from .test_resume import MODULE, run_dir, wait_for_step

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture
def shards(tone_shards: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(tone_shards, tmp_path / "shards")


def train_tar(shards: Path, dataset: str) -> Path:
    return sorted((shards / dataset).glob(f"{dataset}-train-*.tar"))[0]


def silence_clip(tar: Path, number: int) -> str:
    """Overwrite the audio of one clip with zeros, which is no FLAC; returns the clip's id."""
    sample = ShardSide.model_validate_json(tar.with_suffix(".json").read_bytes()).samples[number]
    with open(tar, "r+b") as file:
        file.seek(sample.audio_offset)
        file.write(bytes(sample.audio_size))
    return sample.clip_id


def events(out: Path, kind: str) -> list[list[dict[str, Any]]]:
    """The events of one kind, rank by rank."""
    logs = [read_event_lines(run_dir(out) / f"events-rank{rank}.jsonl")[0] for rank in range(2)]
    return [[event for event in log if event["event"] == kind] for log in logs]


def test_a_corrupt_clip_is_replaced_logged_and_counted(
    write_recipe: Callable[..., Path], shards: Path, tmp_path: Path
) -> None:
    clip = silence_clip(train_tar(shards, "height"), 2)
    out = tmp_path / "corrupt"
    # 96 examples of at most four datasets: more than the 24 of `height` are of it, so the clip is met.
    done = run_ranks(MODULE, "-c", write_recipe(out), f"data.shards={shards}", "data.workers=1", "data.bucket=2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((run_dir(out) / "result.json").read_text())["samples"] == 12 * 8
    met = [event for log in events(out, "bad_sample") for event in log]
    assert met and {(event["dataset"], event["example"]) for event in met} == {("height", f"{clip}#0")}
    assert all("unreadable" in event["reason"] for event in met)
    counted = [log[-1]["datasets"]["height"]["bad"] for log in events(out, "data")]
    assert sum(counted) == len(met)
    assert count_skipped(run_dir(out)) == {"height": 1}


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda tar: tar.unlink(), "a shard is missing"),
        (lambda tar: os.truncate(tar, tar.stat().st_size // 2), "does not have its recorded size"),
    ],
)
def test_a_shard_that_is_missing_or_cut_is_refused_before_training(
    write_recipe: Callable[..., Path], shards: Path, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    tar = train_tar(shards, "colour")
    harm(tar)
    out = tmp_path / "refused"
    done = run_ranks(MODULE, "-c", write_recipe(out), f"data.shards={shards}")  # a hang would end in a TimeoutExpired
    assert done.returncode != 0
    assert says in done.stderr and str(tar) in done.stderr and "Traceback" not in done.stderr
    assert events(out, "step") == [[], []]


def test_a_shard_that_is_cut_while_training_ends_the_run_with_its_name(
    write_recipe: Callable[..., Path], shards: Path, tmp_path: Path
) -> None:
    tar = train_tar(shards, "height")
    out = tmp_path / "cut"
    process = start_ranks(MODULE, "-c", write_recipe(out, max_steps=2000), f"data.shards={shards}")
    wait_for_step(process, out, 2)
    os.truncate(tar, 0)
    said = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode != 0
    assert str(tar) in said and "error: a shard" in said
