"""What all adapters have in common, on the tiny corpora of all fourteen."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import corpus_fixtures as fixtures
import pytest
from corpus_files import table
from reading import audio_name, built, read

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from pipeline.errors import CorpusError
from pipeline.types import DOMAINS, SPLITS

NAMES = sorted(fixtures.BUILDERS)


def test_there_is_one_adapter_for_each_of_the_fourteen_tags() -> None:
    assert list(ADAPTERS) == NAMES
    assert all(adapter.name == name and adapter.licence for name, adapter in ADAPTERS.items())
    domains = {name: adapter.domain for name, adapter in ADAPTERS.items()}
    assert set(domains.values()) == set(DOMAINS)
    assert [name for name in NAMES if domains[name] == "speech"] == ["iemocap", "promptspeech", "textrolspeech"]
    assert [name for name in NAMES if domains[name] == "music"] == ["jamendo_qa", "musicnet", "musicqa"]


def test_each_adapter_finds_its_own_corpus_among_all_fourteen(tmp_path: Path) -> None:
    folders = {name: build(tmp_path) for name, build in fixtures.BUILDERS.items()}
    assert {name: adapter.find(tmp_path) for name, adapter in ADAPTERS.items()} == folders
    assert {name: adapter.find(folders[name]) for name, adapter in ADAPTERS.items()} == folders


def test_a_corpus_may_lie_deeper_under_any_folder_name(tmp_path: Path) -> None:
    folder = fixtures.BUILDERS["musicqa"](tmp_path / "a" / "b").rename(tmp_path / "a" / "b" / "anything")
    assert ADAPTERS["musicqa"].find(tmp_path) == folder


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_where_the_corpus_is_not(name: str, tmp_path: Path) -> None:
    for other in NAMES:
        if other != name:
            fixtures.BUILDERS[other](tmp_path)
    assert ADAPTERS[name].find(tmp_path) is None
    assert ADAPTERS[name].find(tmp_path / "no_such_folder") is None


@pytest.mark.parametrize("name", NAMES)
def test_every_clip_is_whole_and_its_questions_never_change(name: str, tmp_path: Path) -> None:
    first, second = built(name, tmp_path), read(name, tmp_path)
    assert list(first.items()) == list(second.items())
    for clip in first.values():
        assert clip.split in SPLITS
        assert len({qa.id for qa in clip.qa}) == len(clip.qa)
        assert all(qa.question and qa.answer == qa.answers[0] and "{" not in qa.question for qa in clip.qa)
        assert (clip.state == "ok") == (not clip.reason)
        if clip.state == "ok":
            assert clip.qa and clip.source_keys
            assert not audio_name(clip).startswith("._")
    assert any(clip.state == "ok" for clip in first.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_without_audio_is_an_error_that_names_its_folder(name: str, tmp_path: Path) -> None:
    folder = fixtures.BUILDERS[name](tmp_path)
    for path in folder.rglob("*"):
        if path.suffix.lower() in {".wav", ".flac"}:
            path.unlink()
    if name == "wavcaps":  # a source without audio is usual there; every clip is missing and the plan says so
        assert {clip.state for clip in read(name, tmp_path).values()} == {"missing"}
        return
    with pytest.raises(CorpusError, match="no audio") as error:
        read(name, tmp_path)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("audiocaps", "dataset/val.csv"),
        ("chime_home", "evaluation_chunks_refined.csv"),
        ("clotho", "clotho_csv_files/clotho_captions_validation.csv"),
        ("sounddescs", "data/SoundDescs/test_list.txt"),
        ("textrolspeech", "caption/random_test.csv"),
    ],
)
def test_a_missing_annotation_file_is_named(name: str, file: str, tmp_path: Path) -> None:
    folder = fixtures.BUILDERS[name](tmp_path)
    (folder / file).unlink()
    with pytest.raises(CorpusError, match=Path(file).name) as error:
        read(name, tmp_path)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("clotho", "clotho_audio_files/validation"),
        ("cochlscene", "Val"),
        ("iemocap", "Session3"),
        ("musicnet", "musicnet/test_labels"),
    ],
)
def test_a_missing_folder_is_named(name: str, gone: str, tmp_path: Path) -> None:
    folder = fixtures.BUILDERS[name](tmp_path)
    shutil.rmtree(folder / gone)
    with pytest.raises(CorpusError, match=Path(gone).name):
        read(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"clotho", "cochlscene", "iemocap"}])
def test_reading_a_wrong_folder_names_what_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as error:
        list(ADAPTERS[name].clips(tmp_path, Findings()))
    message = str(error.value)
    assert str(tmp_path) in message and name in message


@pytest.mark.parametrize(
    ("name", "file", "column", "delimiter"),
    [
        ("audiocaps", "dataset/test.csv", "caption", ","),
        ("audiocaps", "dataset/train.csv", "youtube_id", ","),
        ("clotho", "clotho_csv_files/clotho_captions_evaluation.csv", "caption_4", ","),
        ("macs", "tau_meta/meta.csv", "identifier", "\t"),
        ("musicnet", "musicnet_metadata.csv", "composer", ","),
        ("musicnet", "musicnet/train_labels/1727.csv", "instrument", ","),
        ("promptspeech", "Real_training.csv", "energy", ","),
        ("textrolspeech", "caption/random_train.csv", "style_prompt", ","),
    ],
)
def test_a_missing_column_is_named_with_its_file(
    name: str, file: str, column: str, delimiter: str, tmp_path: Path
) -> None:
    folder = fixtures.BUILDERS[name](tmp_path)
    with open(folder / file, encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.reader(lines, delimiter=delimiter))
    at = rows[0].index(column)
    table(folder / file, [[*row[:at], *row[at + 1 :]] for row in rows], delimiter=delimiter)
    with pytest.raises(CorpusError) as error:
        read(name, tmp_path)
    assert error.value.where["file"] == folder / file
    assert error.value.where["column"] == column
    assert error.value.got == ", ".join([*rows[0][:at], *rows[0][at + 1 :]])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("jamendo_qa", "data/questions/qa_v2.json"),
        ("musicqa", "FinetuneMusicQA.json"),
        ("openaqa", "openaqa_5.6M.json"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "html", "other keys"])
def test_damaged_json_is_named(name: str, file: str, damage: str, tmp_path: Path) -> None:
    path = fixtures.BUILDERS[name](tmp_path) / file
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "html": b"<html>", "other keys": b'[{"a": "b"}]'}[damage]
    if damage == "other keys" and name == "wavcaps":
        damaged = b'{"data": [{"a": "b"}]}'
    path.write_bytes(damaged)
    with pytest.raises(CorpusError) as error:
        read(name, tmp_path)
    assert error.value.where["file"] == path


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = fixtures.BUILDERS["audiocaps"](tmp_path) / "dataset" / "train.csv"
    file.write_bytes(file.read_bytes() + "17,Ffffffffff1,3,Caf\u00e9\r\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"utf-8.*train\.csv|train\.csv[\s\S]*utf-8"):
        read("audiocaps", tmp_path)


def test_corpora_that_share_recordings_share_source_keys(tmp_path: Path) -> None:
    for build in fixtures.BUILDERS.values():
        build(tmp_path)
    keys = {
        name: {pair for clip in read(name, tmp_path).values() for pair in clip.source_keys.items()} for name in NAMES
    }
    assert ("bbc", "nhu05001001") in keys["sounddescs"] & keys["wavcaps"]
    assert ("libritts", "1089_134686_000003_000000") in keys["promptspeech"] & keys["textrolspeech"]
    shared = {(a, b) for a in NAMES for b in NAMES if a < b and keys[a] & keys[b]}
    assert shared == {("promptspeech", "textrolspeech"), ("sounddescs", "wavcaps")}


def test_adapters_do_not_need_valid_json_of_other_corpora(tmp_path: Path) -> None:
    # `find` must stay cheap and safe beside anything: an unreadable table is passed over.
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "train.csv").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "noise" / "empty.csv").write_bytes(b"")
    (tmp_path / "noise" / "x.json").write_text(json.dumps({"a": 1}))
    assert [name for name in NAMES if ADAPTERS[name].find(tmp_path)] == []
