"""The plan: reproducible, complete, and splits by recording."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from given_clips import QUESTION, GivenClips, make_clips
from prep_corpora import line, write_corpus, write_lines

from data_prep.adapters.base import SourceClip
from data_prep.adapters.jsonl import JsonlCorpus
from data_prep.audio.load import AudioOptions
from data_prep.planning.plan import Plan, PlanOptions, make_plan
from data_prep.planning.spool import Row, Spool
from pipeline.errors import ConfigError, CorpusError, ShardError
from pipeline.types import Qa


def plan_of(root: Path, clips: list[SourceClip], **options: object) -> Plan:
    return make_plan(GivenClips(clips), root, root / "out", PlanOptions(**options))  # type: ignore[arg-type]


def members(plan: Plan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for shard in plan.shards:
        found.setdefault(shard.split, []).extend(clip.id for clip in shard.clips())
    return found


def test_plan_depends_on_content_and_options_not_on_place_or_order(tmp_path: Path) -> None:
    first = write_corpus(tmp_path / "a")
    plan = make_plan(JsonlCorpus("noises"), first, tmp_path / "out", PlanOptions())
    moved = shutil.copytree(first, tmp_path / "b")
    lines = (moved / "metadata.jsonl").read_text().splitlines(keepends=True)
    (moved / "metadata.jsonl").write_text("".join(reversed(lines)))
    same = make_plan(JsonlCorpus("noises"), moved, tmp_path / "elsewhere", PlanOptions())
    assert same.plan_hash == plan.plan_hash
    assert members(same) == members(plan)
    for changed in (PlanOptions(seed=15), PlanOptions(audio=AudioOptions(min_duration_s=0.2)), PlanOptions(limit=5)):
        other = make_plan(JsonlCorpus("noises"), first, tmp_path / "out", changed)
        assert other.plan_hash != plan.plan_hash
    newer = make_plan(replace(JsonlCorpus("noises"), version=2), first, tmp_path / "out", PlanOptions())
    assert newer.plan_hash != plan.plan_hash
    (moved / "audio/000.wav").write_bytes(bytes(50))
    smaller = make_plan(JsonlCorpus("noises"), moved, tmp_path / "out", PlanOptions())
    assert smaller.plan_hash != plan.plan_hash


def test_order_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 50)
    orders = [members(plan_of(tmp_path, clips, seed=seed, val_fraction=0, test_fraction=0))["train"] for seed in (1, 2)]
    assert orders[0] != orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(clip.id for clip in clips)


def test_shards_are_bounded_by_count_and_bytes(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 25)
    none = {"val_fraction": 0.0, "test_fraction": 0.0}
    by_count = plan_of(tmp_path, clips, max_clips_per_shard=10, **none)
    assert [shard.n_clips for shard in by_count.shards] == [10, 10, 5]
    assert [shard.name for shard in by_count.shards] == [f"given-train-00000{i}" for i in range(3)]
    assert by_count.shards[2].key(4) == "given-train-000002-00004"
    by_bytes = plan_of(tmp_path, clips, max_shard_bytes=450, **none)
    assert {shard.n_clips for shard in by_bytes.shards} == {4, 1}


def test_every_clip_has_one_state(tmp_path: Path) -> None:
    good = make_clips(tmp_path, 3, "val")
    clips = [
        *good,
        replace(good[0], qa=QUESTION),
        replace(good[0], id="gone", audio=tmp_path / "gone.wav"),
        replace(good[0], id="nowhere", audio=None, state="missing", reason="no rule matched"),
        replace(good[0], id="blank", qa=(Qa("q", "qa", "What?", " "),)),
        replace(good[0], id="mute", qa=()),
        replace(good[0], id="twins", qa=QUESTION * 2),
        replace(good[0], id="half", qa=(Qa("q", "qa", "What?", "\ud83d"),)),
        replace(good[0], id="latin", audio=tmp_path / "caf\udce9.wav"),
        replace(good[0], id="listed", state="blacklisted", reason="on the list"),
    ]
    plan = plan_of(tmp_path, clips)
    assert plan.n_clips == 3
    refused = list(plan.refused())
    states = {record["id"]: record["state"] for record in refused}
    assert states == {
        "c0": "duplicate",
        "gone": "missing",
        "nowhere": "missing",
        "blank": "bad_annotation",
        "mute": "bad_annotation",
        "twins": "bad_annotation",
        "half": "bad_annotation",
        "latin": "missing",
        "listed": "blacklisted",
    }
    assert {record["audio"] for record in refused} == {"0.wav", "gone.wav", "caf\\udce9.wav", None}


def test_missing_splits_are_held_out_by_recording(tmp_path: Path) -> None:
    clips = [
        replace(clip, source_keys={"youtube": f"video{index // 4}", **({"speaker": "x"} if index in (0, 7) else {})})
        for index, clip in enumerate(make_clips(tmp_path, 120))
    ]
    plan = plan_of(tmp_path, clips)
    found = members(plan)
    sizes = Counter({split: len(ids) for split, ids in found.items()})
    assert sum(sizes.values()) == 120 and 10 <= sizes["val"] <= 18 and 10 <= sizes["test"] <= 18
    split_of = {clip_id: split for split, ids in found.items() for clip_id in ids}
    for first in range(0, 120, 4):
        assert len({split_of[f"c{index}"] for index in range(first, first + 4)}) == 1
    assert split_of["c0"] == split_of["c7"], "linked through a second key"
    assert [note.split(":")[0] for note in plan.record.notes] == ["no official val split", "no official test split"]


def test_windows_of_one_file_stay_together_and_official_splits_are_kept(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 10)
    windows = [
        replace(clip, id=f"{clip.id}w{part}", start_s=float(part), end_s=part + 1.0)
        for clip in clips
        for part in range(5)
    ]
    official = [replace(clip, id=f"t{clip.id}", split="test") for clip in clips[:2]]
    found = members(plan_of(tmp_path, windows + official))
    assert sorted(found["test"]) == ["tc0", "tc1"]
    held = {clip_id.split("w")[0] for clip_id in found["val"]}
    assert len(found["val"]) == 5 * len(held) > 0


def test_a_single_recording_cannot_be_split(tmp_path: Path) -> None:
    clips = [replace(clip, source_keys={"bbc": "1"}) for clip in make_clips(tmp_path, 10)]
    plan = plan_of(tmp_path, clips)
    assert list(members(plan)) == ["train"]
    assert len(plan.record.notes) == 2 and "too few recordings" in plan.record.notes[0]


def test_limit_is_per_split(tmp_path: Path) -> None:
    plan = make_plan(JsonlCorpus("noises"), write_corpus(tmp_path / "a"), tmp_path / "out", PlanOptions(limit=1))
    assert {split: len(ids) for split, ids in members(plan).items()} == {"train": 1, "val": 1, "test": 1}
    assert "limited to 1 clips a split" in plan.record.notes


def test_unknown_split_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="unknown split") as caught:
        plan_of(tmp_path, make_clips(tmp_path, 1, "tests"))
    assert "'test'" in str(caught.value) and "c0" in str(caught.value)


def test_corpus_without_audio_names_what_was_looked_for(tmp_path: Path) -> None:
    write_lines(tmp_path / "a", [line(index, "train") for index in range(4)])
    with pytest.raises(CorpusError, match="no audio at all") as caught:
        make_plan(JsonlCorpus("noises"), tmp_path / "a", tmp_path / "out", PlanOptions())
    message = str(caught.value)
    assert "noises" in message and str(tmp_path / "a") in message and "audio/000.wav" in message
    with pytest.raises(CorpusError, match="name no clip"):
        plan_of(tmp_path, [])


def test_names_and_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="tag"):
        make_plan(GivenClips([], name="My.Set"), tmp_path, tmp_path, PlanOptions())
    with pytest.raises(ConfigError, match="out of range"):
        PlanOptions(max_clips_per_shard=100_001)


def test_a_full_disk_for_the_temporary_database_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    row = Row("c", b"", "train", "ok", "", 1, "x" * 10_000, ())
    with pytest.raises(ShardError, match="set TMPDIR") as caught, Spool() as spool:
        spool._base.execute("PRAGMA max_page_count = 20")
        for index in range(100):
            spool.add("given", replace(row, id=f"c{index}"))
    assert str(tmp_path) in str(caught.value)
