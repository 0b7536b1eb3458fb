"""Lint finds what is wrong in prepared shards, and tells it from what is only worth knowing."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from prep_corpora import noise, write_corpus
from prepared_shards import Members, change_json, change_manifest, prepare_clips, prepare_folder, rewrite, vouch

from data_prep.look.lint import find_leaks, lint
from data_prep.planning.leakage_keys import GROUP_KINDS, recording_keys
from pipeline.data.manifest import DatasetManifest, ShardSide, read_model
from pipeline.errors import ConfigError, ShardError

TAR = "noises-train-000000.tar"
TWIN = noise(0.3, seed=7)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    (corpus / "audio/000.wav").write_bytes(b"")
    return prepare_folder(corpus, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def shards(prepared: Path, tmp_path: Path) -> Path:
    """A copy to break: 7 + 2 + 2 clips, and one that was empty."""
    return Path(shutil.copytree(prepared, tmp_path / "shards"))


def train_side(shards: Path) -> ShardSide:
    return read_model(shards / "noises" / TAR.replace(".tar", ".json"), ShardSide)


def test_good_shards_have_no_problems_even_when_rewritten(shards: Path) -> None:
    for jobs in (1, 3):
        report = lint(shards, decode=True, jobs=jobs)
        assert (report.problems, report.notes) == ([], [])
    rewrite(shards / "noises", lambda members: members)
    assert lint(shards, decode=True).problems == []
    steps: list[tuple[int, int]] = []
    lint(shards, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda members: [members[1], members[0], *members[2:]], "flac, json"),
        (lambda members: [members[0], *members[2:4], members[1], *members[4:]], "1 samples are not adjacent"),
        (lambda members: [*members, ("extra.txt", b"x")], "1 members of the tar are not in the side file"),
        (change_json(lambda clip: clip.pop("domain")), "domain"),
        (change_json(lambda clip: clip.update(extra=1)), "json"),
        (change_json(lambda clip: clip.update(qa=[])), "0 questions"),
        (change_json(lambda clip: clip.update(dataset="other")), "dataset"),
        (change_json(lambda clip: clip.update(domain="noise")), "unknown domain"),
        (change_json(lambda clip: clip["qa"][0].update(answers=["else"])), "answer"),
        (change_json(lambda clip: clip.update(duration_s="long")), "duration_s"),
    ],
)
def test_wrong_content_is_found(shards: Path, change: Callable[[Members], Members], problem: str) -> None:
    rewrite(shards / "noises", change)
    found = lint(shards).problems[0]
    assert problem in found and found.startswith(f"noises/{TAR}: ")


def test_only_decoding_finds_wrong_audio(shards: Path) -> None:
    rewrite(shards / "noises", lambda members: [(members[0][0], b"fLaC" + bytes(400)), *members[1:]])
    rewrite(shards / "noises", change_json(lambda clip: clip.update(sample_rate_hz=8000), 1))
    assert lint(shards).problems == []
    undecodable, other_rate = lint(shards, decode=True).problems
    assert "FLAC" in undecodable and "16000 Hz, the json says 8000 Hz" in other_rate


def test_damaged_files_are_found(shards: Path) -> None:
    folder = shards / "noises"
    tar = folder / "noises-val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    (folder / "noises-test-000000.json").unlink()
    (folder / "noises-train-000001.tar").write_bytes(b"stray")
    (folder / "noises-train-000002.json").write_text("{}")
    report = lint(shards)
    assert report.problems == [
        "noises/noises-train-000001.tar: not in the manifest",
        "noises/noises-val-000000.tar: the content has another sha256 than the manifest says",
        "noises/noises-test-000000.tar: the side file is missing",
    ]
    assert report.notes == ["noises/noises-train-000002.json: a side file without a tar"]
    (folder / "noises-test-000000.tar").unlink()
    assert "noises/noises-test-000000.tar: the tar is missing" in lint(shards).problems
    (folder / "manifest.json").unlink()
    assert lint(shards).problems == ["noises: not complete: a prepared file is missing"]


def test_a_tar_cut_on_a_member_boundary_is_found_even_when_all_hashes_agree(shards: Path) -> None:
    folder, side = shards / "noises", train_side(shards)
    tar = folder / TAR
    whole = tar.read_bytes()
    tar.write_bytes(whole[: side.samples[5].audio_offset - 512])
    assert f"noises/{TAR}: " in lint(shards).problems[0] and "cut after 5 of 7 samples" in lint(shards).problems[0]
    vouch(folder, "train", side)
    assert "4 members of the side file are not in the tar" in lint(shards).problems[0]
    last = side.samples[-1]
    tar.write_bytes(whole[: -(-(last.json_offset + last.json_size) // 512) * 512])
    vouch(folder, "train", side)
    assert "no end-of-archive mark" in lint(shards).problems[0]


def test_keys_that_other_readers_would_cut_are_found(shards: Path) -> None:
    folder, side = shards / "noises", train_side(shards)
    old, new = side.samples[0].key, "noises-train.v2-00000"
    renamed = side.samples[0].model_copy(update={"key": new})
    odd = side.samples[1].model_copy(update={"key": "clip1"})
    vouch(folder, "train", side.model_copy(update={"samples": [renamed, odd, *side.samples[2:]]}))

    def rename(members: Members) -> Members:
        for before, after in ((old, new), (side.samples[1].key, "clip1")):
            members = [(name.replace(before, after), content) for name, content in members]
        return members

    rewrite(folder, rename)
    dotted, shapeless = lint(shards).problems
    assert f"key '{new}' has a dot" in dotted and "key 'clip1' is not of the form" in shapeless


def test_indexes_and_counts_must_agree_with_the_manifest(shards: Path) -> None:
    folder = shards / "noises"
    index = json.loads((folder / "noises-train.wids.json").read_text())
    index["shardlist"][0]["nsamples"] += 1
    (folder / "noises-train.wids.json").write_text(json.dumps(index))
    (folder / "noises-val.wids.json").write_text("[")
    (folder / "noises-test.wids.json").rename(folder / "noises-dev.wids.json")
    (folder / "quarantine.jsonl").write_text('{"state": "silent"}\n' * 2)
    manifest = read_model(folder / "manifest.json", DatasetManifest)
    val = manifest.splits["val"].model_copy(update={"questions": 5, "hours": 1.0})
    change_manifest(folder, splits={**manifest.splits, "val": val}, states={"ok": 12, "empty": 1})
    assert lint(shards).problems == [
        "noises: the manifest counts 12 clips as ok, its shards hold 11 samples",
        "noises: the quarantine file has 0 empty clips, the manifest says 1",
        "noises: the quarantine file has 2 silent clips, the manifest says 0",
        "noises: the wids index of split train does not list the shards of the manifest",
        "noises: the wids index of split val is damaged",
        "noises: no wids index of split test",
        "noises: noises-dev.wids.json: a wids index of a split that the manifest does not have",
        "noises: split val has 2 questions, the manifest says 5",
        "noises: split val has 0.000167 hours, the manifest says 1.0",
    ]
    (folder / "quarantine.jsonl").write_text("{\n")
    assert "noises: the quarantine file is damaged" in lint(shards).problems
    (folder / "quarantine.jsonl").unlink()
    assert "noises: the quarantine file is missing" in lint(shards).problems


def test_names_and_leftovers(shards: Path) -> None:
    (shards / "noises" / f".a.tar.999999999.{socket.gethostname()}.tmp").write_bytes(b"")
    (shards / "noises").rename(shards / "Noises-2")
    report = lint(shards)
    assert report.problems == [
        "Noises-2: not a dataset name: small ASCII letters, digits and _ only",
        "Noises-2: the manifest is of dataset 'noises'",
    ]
    assert len(report.notes) == 1 and "left behind" in report.notes[0]


def test_repeated_keys_and_clips_are_found(shards: Path) -> None:
    folder, side = shards / "noises", train_side(shards)
    first, second, *rest = side.samples
    second = second.model_copy(update={"clip_id": first.clip_id})
    vouch(folder, "train", side.model_copy(update={"samples": [first, second, *rest]}))
    assert f"noises: clip {first.clip_id} occurs 2 times" in lint(shards).problems


def test_bad_calls_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such shard folder"):
        lint(tmp_path / "none")
    with pytest.raises(ShardError, match="no prepared dataset"):
        lint(tmp_path)
    with pytest.raises(ConfigError, match="jobs"):
        lint(tmp_path, jobs=0)


def test_recording_keys_are_normalised_and_groups_left_out() -> None:
    keys = {"youtube": "aBc ", "BBC": "NHU0501", "clotho": " ", **dict.fromkeys(GROUP_KINDS, "x")}
    assert list(recording_keys(keys)) == [("youtube", "aBc"), ("bbc", "nhu0501")]


@pytest.fixture
def overlapping(tmp_path: Path) -> Path:
    """Two datasets that share recordings, prepared apart, so that nothing could keep them out of train."""

    def clip(split: str, **keys: str) -> dict[str, object]:
        return {"split": split, "source_keys": keys}

    out = tmp_path / "shards"
    wild = [
        clip("train", youtube="aaa"),
        clip("train", youtube="AAA", speaker="s"),
        clip("train", bbc="NHU1", youtube="bbb"),
        clip("train", youtube="only"),
        clip("val", youtube="aaa", speaker="s"),
        clip("test", youtube="t"),
    ]
    held = [clip("train", youtube="only"), clip("val", youtube="bbb"), clip("test", bbc="nhu1"), clip("test", tag="q")]
    for name, clips, twin in (("held", held, 0), ("wild", wild, 3)):
        prepare_clips(tmp_path / name, tmp_path / f"{name}_out", name, clips, audio={twin: TWIN})
        shutil.copytree(tmp_path / f"{name}_out" / name, out / name)
    return out


def test_leaks_between_datasets_are_found_by_recording(overlapping: Path) -> None:
    found = {(leak.kind, leak.value, leak.train_dataset, leak.clip_id, leak.held_dataset, leak.held_split)
             for leak in find_leaks(overlapping)}  # fmt: skip
    across = {
        ("bbc", "nhu1", "wild", "clip.002", "held", "test"),
        ("youtube", "bbb", "wild", "clip.002", "held", "val"),
    }
    assert found == across, "preparing keeps the recordings of one dataset apart, of two prepared apart it cannot"
    lines = [problem for problem in lint(overlapping).problems if "leak" in problem]
    assert sorted(lines) == [
        "wild: leak by bbc: 1 clip of train are recordings held out in held: nhu1 (clip clip.002; test)",
        "wild: leak by youtube: 1 clip of train are recordings held out in held: bbb (clip clip.002; val)",
    ]


def test_leaks_inside_one_dataset_are_found_too(shards: Path) -> None:
    folder = shards / "noises"
    for number in range(5):
        rewrite(folder, change_json(lambda clip: clip.update(source_keys={"youtube": "x", "user": "u"}), number))
    rewrite(folder, change_json(lambda clip: clip.update(source_keys={"youtube": "x", "user": "u"})), "val")
    (line,) = lint(shards).problems
    assert line.startswith("noises: leak by youtube: 5 clips of train are recordings held out in noises: x (clip ")
    assert line.count("; val)") == 3 and line.endswith(", and 2 more")
    assert len(find_leaks(shards)) == 5


def test_equal_audio_is_a_problem_only_across_train_and_held_out(overlapping: Path, tmp_path: Path) -> None:
    assert [note for note in lint(overlapping).notes if "same audio" in note] == [
        "wild: same audio: 1 clip of train in held train too: clip.003 = clip.000"
    ]
    clips = [{"split": split, "id": f"other.{split}"} for split in ("val", "train", "test")]
    prepare_clips(tmp_path / "third", overlapping, "third", clips, audio={0: TWIN})
    assert sorted(problem for problem in lint(overlapping).problems if "same audio" in problem) == [
        "held: same audio: 1 clip of train in third val too: clip.000 = other.val",
        "wild: same audio: 1 clip of train in third val too: clip.003 = other.val",
    ]
