"""What one corpus holds out is not trained on in another, nor in itself; and the report says what was removed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from given_clips import QUESTION, GivenClips, make_clips

from data_prep.adapters.base import SourceClip
from data_prep.planning.leakage import read_exclude_lists
from data_prep.planning.plan import Plan, PlanOptions, make_plan, make_plans
from pipeline.errors import ConfigError

WHOLE = PlanOptions(val_fraction=0, test_fraction=0)


def keyed(root: Path, values: list[str], split: str, kind: str = "youtube") -> list[SourceClip]:
    """Clips of one split, each with a file and a source key of its own."""
    clips = []
    for value in values:
        path = root / f"{split}-{value}.wav"
        path.write_bytes(bytes(100))
        clips.append(SourceClip(f"{split}-{value}", split, QUESTION, path, source_keys={kind: value}))
    return clips


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def ids(plan: Plan, split: str) -> list[str]:
    return sorted(clip.id for shard in plan.shards if shard.split == split for clip in shard.clips())


def test_a_recording_held_out_in_one_corpus_is_not_trained_on_in_another(tmp_path: Path) -> None:
    caps, wild = folder(tmp_path / "caps"), folder(tmp_path / "wild")
    captioned = GivenClips([*keyed(caps, ["a", "b"], "train"), *keyed(caps, ["c"], "val"), *keyed(caps, ["d"], "test")])
    found = GivenClips(keyed(wild, ["a", "c", "d", "e", "D"], "train"), name="wild")
    first, second = make_plans([(captioned, caps), (found, wild)], tmp_path / "out", WHOLE)
    assert (ids(first, "train"), ids(first, "val"), ids(first, "test")) == (
        ["train-a", "train-b"],
        ["val-c"],
        ["test-d"],
    )
    assert ids(second, "train") == ["train-D", "train-a", "train-e"], "YouTube ids differ by case"
    reasons = {record["id"]: (record["state"], record["reason"]) for record in second.refused()}
    assert reasons == {
        "train-c": ("blacklisted", "its recording (youtube=c) is held out in given val"),
        "train-d": ("blacklisted", "its recording (youtube=d) is held out in given test"),
    }
    assert second.record.notes == [
        "leakage: 1 train clips left out, as given test holds the same recording (by youtube)",
        "leakage: 1 train clips left out, as given val holds the same recording (by youtube)",
    ]


def test_the_archive_of_the_bbc_is_one_whatever_the_case(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    held = GivenClips([*keyed(one, ["NHU1", "2"], "test", "bbc"), *keyed(one, ["9"], "train", "bbc")])
    other = GivenClips(keyed(two, ["nhu1", "3"], "train", "bbc"), name="other")
    assert ids(make_plans([(held, one), (other, two)], tmp_path / "out", WHOLE)[1], "train") == ["train-3"]


def test_a_corpus_does_not_leak_into_itself(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    same_file = replace(clips[0], id="again", split="test")
    same_key = [
        replace(clips[1], source_keys={"track": "x"}),
        replace(clips[2], split="val", source_keys={"track": "x"}),
    ]
    plan = make_plan(GivenClips([clips[0], same_file, *same_key, clips[3]]), tmp_path, tmp_path / "out", WHOLE)
    assert (ids(plan, "train"), ids(plan, "val"), ids(plan, "test")) == (["c3"], ["c2"], ["again"])


def test_groups_are_kept_apart_only_when_asked_for(tmp_path: Path) -> None:
    given = GivenClips(
        [*keyed(tmp_path, ["ann", "bob"], "train", "speaker"), *keyed(tmp_path, ["ann"], "test", "speaker")]
    )
    given = GivenClips([replace(clip, audio=tmp_path / f"{i}.wav") for i, clip in enumerate(given.given)])
    make_clips(tmp_path, 3)
    assert ids(make_plan(given, tmp_path, tmp_path / "out", WHOLE), "train") == ["train-ann", "train-bob"]
    apart = replace(WHOLE, kinds_apart=("speaker",))
    assert ids(make_plan(given, tmp_path, tmp_path / "out", apart), "train") == ["train-bob"]


def test_our_own_held_out_part_prefers_recordings_that_no_other_corpus_has(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    values = [f"v{number}" for number in range(60)]
    shared = values[:40]
    official = GivenClips([*keyed(one, shared, "train"), *keyed(one, ["x"], "val"), *keyed(one, ["y"], "test")])
    without = GivenClips(keyed(two, values, "train"), name="without")
    first, second = make_plans([(official, one), (without, two)], tmp_path / "out", PlanOptions())
    held = [name.removeprefix("train-") for split in ("val", "test") for name in ids(second, split)]
    assert len(held) >= 10 and not set(held) & set(shared)
    assert len(ids(first, "train")) == 40, "nothing had to be removed"


def test_what_earlier_runs_hold_out_counts_too(tmp_path: Path) -> None:
    caps, wild = folder(tmp_path / "caps"), folder(tmp_path / "wild")
    captioned = GivenClips([*keyed(caps, ["a"], "train"), *keyed(caps, ["d"], "test")])
    found = GivenClips(keyed(wild, ["a", "d"], "train"), name="wild")
    alone = make_plan(found, wild, tmp_path / "out", WHOLE)
    make_plan(captioned, caps, tmp_path / "out", WHOLE)
    after = make_plan(found, wild, tmp_path / "out", WHOLE)
    assert ids(alone, "train") == ["train-a", "train-d"] and ids(after, "train") == ["train-a"]
    assert alone.plan_hash != after.plan_hash, "so its shards are written again"
    together = make_plans([(captioned, caps), (found, wild)], tmp_path / "new", WHOLE)
    assert after.plan_hash == together[1].plan_hash


def test_exclude_lists_take_recordings_out_of_every_split(tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_bytes("\ufeffb\r\n\r\nd \r\n".encode())
    given = GivenClips([*keyed(tmp_path, ["a", "b"], "train"), *keyed(tmp_path, ["c", "d"], "test")])
    (plan,) = make_plans(
        [(given, tmp_path)], tmp_path / "out", WHOLE, excluded=read_exclude_lists([f"youtube={listed}"])
    )
    states = Counter(record["state"] for record in plan.refused())
    assert states == {"blacklisted": 2}
    assert "youtube=b is in ids.txt" in {record["reason"] for record in plan.refused()}
    for wrong in ("ids.txt", "youtube=", f"youtube={tmp_path}/none"):
        with pytest.raises(ConfigError, match="exclude list"):
            read_exclude_lists([wrong])


def test_questions_of_clips_come_back_from_the_plan_unchanged(tmp_path: Path) -> None:
    given = make_clips(tmp_path, 1)[0]
    clip = replace(given, meta={"x": [1, {"y": "\u00e9"}]}, start_s=0.5, end_s=1.5, domain="music")
    plan = make_plan(GivenClips([clip]), tmp_path, tmp_path / "out", WHOLE)
    assert plan.shards[0].clips() == [clip]
