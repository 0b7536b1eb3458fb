"""What people see while a preparation runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from given_clips import GivenClips, make_clips
from rich.console import Console

from data_prep.planning.plan import PlanOptions, make_plan
from data_prep.planning.task import ShardDone
from data_prep.shards import progress
from data_prep.shards.progress import PrepareProgress


def test_lines_tell_rate_remaining_time_and_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock_s)))
    clips = [*make_clips(tmp_path, 20)]
    (tmp_path / "3.wav").unlink()
    options = PlanOptions(max_clips_per_shard=5, val_fraction=0, test_fraction=0)
    plan = make_plan(GivenClips(clips), tmp_path, tmp_path / "out", options)
    text = io.StringIO()
    with PrepareProgress(Console(file=text, width=200)) as bar:
        bar.reading("given", 1000)
        bar.planned([plan], plan.shards[:3])
        bar.shard_done(plan.shards[0], ShardDone("", {"ok": 5}, 5, 1), True)
        bar.shard_done(plan.shards[1], ShardDone("", {"ok": 4, "silent": 1}, 4, 1), False)
        bar.shard_done(plan.shards[3], ShardDone("", {"ok": 4}, 4, 1), True)
        bar.shard_done(plan.shards[2], ShardDone("", {"ok": 5}, 5, 1), False)
    lines = text.getvalue().splitlines()
    assert lines[0] == "planning given: 1000 clips"
    assert "remain" not in lines[1], "no rate is known from shards that were there already"
    assert lines[1].startswith("5/15 clips") and lines[1].endswith("missing 1")
    assert lines[2].startswith("10/15 clips") and "s remain, ok 9 missing 1 silent 1" in lines[2]
    assert lines[3].startswith("15/15 clips") and "remain" not in lines[3] and len(lines) == 4
