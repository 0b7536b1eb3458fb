"""WavCaps: its layouts, its black-lists, and the defects of its downloads."""

from __future__ import annotations

from pathlib import Path

import corpora_large as corpora
import pytest
from corpus_files import dump, text, wav
from reading import answers, built, read

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from pipeline.errors import ConfigError, CorpusError

AUDIOSET, BBC, BELL, GONE = "AudioSet_SL/Yb0RFKhbpFJA", "BBC_Sound_Effects/NHU05001001", "FreeSound/77", "FreeSound/78"


def states(root: Path, **options: str) -> dict[str, str]:
    return {id: clip.state for id, clip in read("wavcaps", root, **options).items()}


def test_sources_keep_their_ids_apart(tmp_path: Path) -> None:
    clips = built("wavcaps", tmp_path)
    keys = {id: clip.source_keys for id, clip in clips.items()}
    assert keys == {
        AUDIOSET: {"youtube": "b0RFKhbpFJA"},
        BBC: {"bbc": "nhu05001001"},
        BELL: {"freesound": "77"},
        GONE: {"freesound": "78"},
        "SoundBible/77": {"soundbible": "77"},
    }
    for source in ("FreeSound", "SoundBible"):
        path = clips[f"{source}/77"].audio
        assert path is not None and path.parent.name == source
    assert answers(clips[BELL]) == {"caption": "A bell \u2013 far."}
    assert clips[GONE].state == "missing"


def test_durations_and_categories_in_any_spelling(tmp_path: Path) -> None:
    found = Findings()
    clips = built("wavcaps", tmp_path, found)
    durations = {id: clip.meta.get("listed_duration_s") for id, clip in clips.items()}
    assert durations == {AUDIOSET: 10.0, BBC: None, BELL: 12.5, GONE: None, "SoundBible/77": 3.0}
    assert found.counts["duration"] == {"float": 1, "str": 1, "unusable": 1, "int": 1}
    assert clips[BBC].meta["category"] == ["Birds", "Nature"]


def test_what_does_not_fit_is_counted_by_source(tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    wav(folder / "Audio" / "SoundBible" / "99.flac")
    found = Findings()
    read("wavcaps", tmp_path, found)
    assert found.counts["entries"]["FreeSound"] == 2
    assert found.counts["entries without audio"] == {"FreeSound": 1}
    assert found.counts["audio files without an entry, or in another format too"] == {"SoundBible": 1}
    assert "FreeSound entries: expected 262300, found 2" in found.notes


def _flac_folders(folder: Path) -> None:
    for path in sorted((folder / "Audio").iterdir()):
        (folder / "raw_datasets").mkdir(exist_ok=True)
        path.rename(folder / "raw_datasets" / f"{path.name}_flac")


def _json_beside(folder: Path) -> None:
    for path in sorted((folder / "json_files").iterdir()):
        (path / corpora.WAVCAPS_JSON[path.name]).rename(folder / corpora.WAVCAPS_JSON[path.name])


def _json_with_the_audio(folder: Path) -> None:
    (folder / "json_files").rename(folder / "meta")
    for name in corpora.WAVCAPS_JSON:
        (folder / "Audio" / name).rename(folder / f"{name}_flac")


def _json_in_a_repository(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "json_files").rename(folder / "data" / "json_files")


def _zips(folder: Path) -> None:
    for path in sorted((folder / "Audio").iterdir()):
        files = {f"mnt/fast/{path.name}/{file.name}": file for file in sorted(path.glob("[!.]*.flac"))}
        corpora.pack(folder / "Zip_files" / path.name / f"{path.name}.zip", files)


@pytest.mark.parametrize("move", [_flac_folders, _json_beside, _json_with_the_audio, _json_in_a_repository, _zips])
def test_layouts(move: object, tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    assert callable(move)
    move(folder)
    assert ADAPTERS["wavcaps"].find(tmp_path) == folder
    assert list(states(tmp_path).values()) == ["ok", "ok", "ok", "missing", "ok"]


def test_audio_in_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    _zips(folder)
    archive = folder / "Zip_files" / "FreeSound" / "FreeSound.zip"
    assert read("wavcaps", tmp_path)[BELL].audio == Path(f"{archive}!/mnt/fast/FreeSound/77.flac")


def test_split_archives_alone_are_an_error_that_says_how_to_join_them(tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    _zips(folder)
    for archive in sorted(folder.rglob("*.zip")):
        corpora.split_archive(archive)
    with pytest.raises(CorpusError, match="split archives") as error:
        read("wavcaps", tmp_path)
    assert error.value.hint is not None
    assert "in Zip_files/AudioSet_SL: " in error.value.hint and "zip -s 0 AudioSet_SL.zip --out" in error.value.hint


def test_one_split_archive_beside_other_audio_is_noted(tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    _zips(folder)
    corpora.split_archive(folder / "Zip_files" / "FreeSound" / "FreeSound.zip")
    found = Findings()
    clips = read("wavcaps", tmp_path, found)
    assert [clip.state for clip in clips.values()] == ["ok", "ok", "missing", "missing", "ok"]
    assert any("zip -s 0 FreeSound.zip --out" in note for note in found.notes)


def test_the_strictest_blacklists_apply_by_default(tmp_path: Path) -> None:
    corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    found = Findings()
    clips = read("wavcaps", tmp_path, found)
    assert {id for id, clip in clips.items() if clip.state == "blacklisted"} == {AUDIOSET, BELL, GONE}
    assert clips[BELL].reason == "named by blacklist_clotho.full.v2.csv"
    assert clips["SoundBible/77"].state == "ok", "a list of Freesound ids says nothing about SoundBible"
    assert "ub8k" not in found.facts["black-lists used"]
    assert found.counts["black-listed"]["FreeSound, named by blacklist_clotho.full.v2.csv"] == 1


@pytest.mark.parametrize(
    ("chosen", "blacklisted"),
    [
        ("none", set()),
        ("exclude_test_ac", {GONE}),
        ("blacklist_clotho.full.v2.csv", {BELL}),
        ("audiocaps.full, exclude_test_ac", {AUDIOSET, GONE}),
        ("ub8k_esc50_vggsound", {AUDIOSET, BELL}),
        ("strictest,ub8k_esc50_vggsound", {AUDIOSET, BELL, GONE}),
    ],
)
def test_blacklists_by_name(chosen: str, blacklisted: set[str], tmp_path: Path) -> None:
    corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    assert {id for id, state in states(tmp_path, blacklists=chosen).items() if state == "blacklisted"} == blacklisted


def test_a_weaker_list_is_used_where_no_strict_one_is_there_and_that_is_noted(tmp_path: Path) -> None:
    folder = corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    for name in ("json_files/blacklist/blacklist_exclude_all_ac.json", "blacklist_clotho.full.v2.csv"):
        (folder / name).unlink()
    found = Findings()
    clips = read("wavcaps", tmp_path, found)
    assert {id for id, clip in clips.items() if clip.state == "blacklisted"} == {AUDIOSET, GONE}
    assert any("no black-list covers all of Clotho" in note for note in found.notes)
    assert not any("AudioCaps" in note for note in found.notes)


def test_no_blacklist_at_all_is_noted(tmp_path: Path) -> None:
    found = Findings()
    built("wavcaps", tmp_path, found)
    assert len([note for note in found.notes if "no black-list covers" in note]) == 2


def test_an_unknown_blacklist_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    with pytest.raises(ConfigError) as error:
        states(tmp_path, blacklists="exclude_all_acc")
    assert error.value.got == "exclude_all_acc" and error.value.hint == "did you mean 'all_ac'?"
    assert "ub8k_esc50_vggsound" in str(error.value.expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "JSON"),
        ("[]", "another form"),
        ('{"AudioSet": "x"}', "another form"),
        ('{"UrbanSound": []}', "unknown"),
    ],
)
def test_a_broken_blacklist_is_named(content: str, message: str, tmp_path: Path) -> None:
    folder = corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    file = text(folder / "json_files" / "blacklist" / "blacklist_exclude_all_ac.json", content)
    with pytest.raises(CorpusError, match=message) as error:
        states(tmp_path)
    assert error.value.where["file"] == file


def test_a_blacklist_without_its_column_is_named(tmp_path: Path) -> None:
    folder = corpora.wavcaps_blacklists(corpora.wavcaps(tmp_path))
    text(folder / "blacklist_clotho.full.v2.csv", "index,name\r\n0,77\r\n")
    with pytest.raises(CorpusError, match="id") as error:
        states(tmp_path)
    assert error.value.where["column"] == "id"


def test_some_sources_only(tmp_path: Path) -> None:
    corpora.wavcaps(tmp_path)
    found = Findings()
    assert list(read("wavcaps", tmp_path, found, sources="SoundBible,AudioSet_SL")) == [AUDIOSET, "SoundBible/77"]
    assert "FreeSound is left out by the option sources" in found.notes
    with pytest.raises(ConfigError, match="no such source: Soundbible") as error:
        states(tmp_path, sources="Soundbible")
    assert error.value.where["option"] == "wavcaps.sources"


def test_an_absent_source_is_noted_and_the_broken_file_is_not_read(tmp_path: Path) -> None:
    folder = corpora.wavcaps(tmp_path)
    place = folder / "json_files" / "FreeSound"
    (place / "fsd_final.json").rename(place / "fsd_final_2s.json")
    found = Findings()
    assert BELL not in read("wavcaps", tmp_path, found)
    assert "FreeSound is left out: no fsd_final.json" in found.notes
    assert any("fsd_final_2s.json is a broken file" in note for note in found.notes)


def test_the_chosen_source_must_be_there(tmp_path: Path) -> None:
    (corpora.wavcaps(tmp_path) / "json_files" / "SoundBible" / "sb_final.json").unlink()
    with pytest.raises(CorpusError) as error:
        states(tmp_path, sources="SoundBible")
    assert error.value.expected == "sb_final.json"


def test_an_entry_without_a_caption_is_named_by_its_place(tmp_path: Path) -> None:
    file = corpora.wavcaps(tmp_path) / "json_files" / "SoundBible" / "sb_final.json"
    dump(file, {"num_captions_per_audio": 1, "data": [{"id": "1"}]})
    with pytest.raises(CorpusError) as error:
        states(tmp_path)
    assert error.value.where["file"] == file
    assert file.read_bytes()[int(str(error.value.where["byte"])) :].startswith(b"{")


def test_a_git_lfs_pointer_is_told_from_damage(tmp_path: Path) -> None:
    file = corpora.wavcaps(tmp_path) / "json_files" / "FreeSound" / "fsd_final.json"
    text(file, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CorpusError) as error:
        states(tmp_path)
    assert error.value.hint is not None and "git lfs pull" in error.value.hint
