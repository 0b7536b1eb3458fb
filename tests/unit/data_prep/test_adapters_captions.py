"""Adapters of AudioCaps and Clotho: tiny copies in all their public layouts, with the defects of real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import corpora_scenes as corpora
import pytest
from corpora_scenes import CLOTHO_METADATA
from corpus_files import litter, table, wav
from reading import answers, audio_name, built, read, splits_of

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from pipeline.errors import CorpusError
from pipeline.types import SPLITS

# AudioCaps


def test_audiocaps_resolves_every_file_naming_rule_and_counts_it(tmp_path: Path) -> None:
    found = Findings()
    clips = built("audiocaps", tmp_path, found)
    assert {id: audio_name(clip) for id, clip in clips.items() if clip.audio} == {
        "-abcDEF1234": "-abcDEF1234_30.flac",
        "Bbbbbbbbbb1": "Bbbbbbbbbb1.wav",
        "Cccccccccc1": "YCccccccccc1.wav",
        "Dddddddddd1": "14.wav",
        "Eeeeeeeeee1": "Eeeeeeeeee1-[40-50].wav",
        "Vvvvvvvvvv1": "Vvvvvvvvvv1_120000.wav",
        "Tttttttttt1": "Tttttttttt1_60.WAV",
    }
    assert found.counts["audio name"] == {
        "{id}_{start}": 2,
        "{id}": 1,
        "Y{id}": 1,
        "{audiocap_id}": 1,
        "{id}-[{start}-{end}]": 1,
        "{id}_{start in ms}": 1,
        "no rule matched": 1,
    }
    gone = clips["Gone_______"]
    assert (gone.state, gone.audio) == ("missing", None) and "Gone________10" in gone.reason
    comma = clips["-abcDEF1234"]
    assert comma.qa[0].answer == "Wind blows, then a door shuts" and comma.meta == {"start_time_s": 30}
    assert comma.source_keys == {"youtube": "-abcDEF1234"} and comma.split == "train"


def test_audiocaps_keeps_five_references_in_one_question(tmp_path: Path) -> None:
    found = Findings()
    clips = built("audiocaps", tmp_path, found)
    for id, split, word in (("Vvvvvvvvvv1", "val", "caption"), ("Tttttttttt1", "test", "reference")):
        (qa,) = clips[id].qa
        assert clips[id].split == split
        assert qa.answers == tuple(f"{word} {n}" for n in range(5))
    assert found.counts["captions a clip in train"] == {"1": 6} and found.counts["captions a clip in val"] == {"5": 1}
    assert "clips in split val: expected 495, found 1" in found.notes


@pytest.mark.parametrize("place", ["dataset", "csv_files_v1", "csv_files", "."])
def test_audiocaps_tables_may_lie_in_any_of_the_folders_of_v1(place: str, tmp_path: Path) -> None:
    expected = list(built("audiocaps", tmp_path / "a").values())
    folder = corpora.audiocaps(tmp_path / "b").rename(tmp_path / "b" / "AUDIOCAPS")
    tables = (folder / "dataset").rename(folder / "tables")
    (folder / place).mkdir(exist_ok=True)
    for path in tables.iterdir():
        path.rename(folder / place / path.name)
    clips = read("audiocaps", tmp_path / "b")
    assert ADAPTERS["audiocaps"].find(tmp_path / "b") == folder
    assert [(clip.id, clip.split, clip.qa, clip.state) for clip in clips.values()] == [
        (clip.id, clip.split, clip.qa, clip.state) for clip in expected
    ]


def test_audiocaps_v1_is_taken_before_v2_and_the_option_turns_that_round(tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    corpora.audiocaps_v2(folder / "dataset2.0")
    found = Findings()
    assert len(read("audiocaps", tmp_path, found)["-abcDEF1234"].qa) == 1
    assert found.facts["captions"].startswith("v1, dataset/train.csv")
    assert any("v1 and v2 are both there: v1 is taken" in note for note in found.notes)
    clips = read("audiocaps", tmp_path, found := Findings(), version="v2")
    assert [qa.answer for qa in clips["-abcDEF1234"].qa] == [
        "wind blows, then a door shuts",
        "a door is shut in the wind",
        "a gust and a thud",
    ]
    assert [qa.answer for qa in clips["Bbbbbbbbbb1"].qa] == ["a dog barks"]
    assert clips["Vvvvvvvvvv1"].qa[0].answers == tuple(f"lower {n}" for n in range(5))
    assert found.counts["captions a clip in train"] == {"3": 1, "1": 1}
    assert "captions in split train of v2: expected 91256, found 4" in found.notes
    assert any("v2 is taken" in note for note in found.notes)


def test_audiocaps_v2_alone_needs_no_option_and_v1_is_then_refused(tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    shutil.rmtree(folder / "dataset")
    corpora.audiocaps_v2(folder / "csv_files_v2")
    assert len(read("audiocaps", tmp_path)["-abcDEF1234"].qa) == 3
    with pytest.raises(CorpusError, match="version of the corpus is absent") as error:
        read("audiocaps", tmp_path, version="v1")
    assert error.value.where["below"] == folder and error.value.got == "v2" and "dataset/train.csv" in str(error.value)


@pytest.mark.parametrize("name", ["train_fixed.csv", "train_v2.csv"])
def test_audiocaps_corrected_captions_are_a_choice(name: str, tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    with pytest.raises(CorpusError, match=r"train_fixed\.csv"):
        read("audiocaps", tmp_path, train="fixed")
    fixed = [corpora.AUDIOCAPS_COLUMNS, [12, "Bbbbbbbbbb1", 0, "A dog barks twice"]]
    table(folder / "dataset" / name, fixed, line_end="\r\n")
    assert answers(read("audiocaps", tmp_path)["Bbbbbbbbbb1"]) == {"caption": "A dog barks"}
    clips = read("audiocaps", tmp_path, found := Findings(), train="fixed")
    assert splits_of(clips) == {"Bbbbbbbbbb1": "train", "Vvvvvvvvvv1": "val", "Tttttttttt1": "test"}
    assert answers(clips["Bbbbbbbbbb1"]) == {"caption": "A dog barks twice"}
    assert "clips in split train: expected 49810, found 1" in found.notes
    (folder / "dataset" / "train.csv").unlink()
    assert len(read("audiocaps", tmp_path, found := Findings())) == 3
    assert any(name in note and "no train.csv" in note for note in found.notes)
    corpora.audiocaps_v2(folder / "dataset2.0")
    with pytest.raises(CorpusError, match=r"train_fixed\.csv"):
        read("audiocaps", tmp_path, train="fixed", version="v2")


def test_audiocaps_reads_the_tables_of_wavcaps(tmp_path: Path) -> None:
    corpora.audiocaps_of_wavcaps(tmp_path)
    clips = read("audiocaps", tmp_path, found := Findings())
    assert splits_of(clips) == {"-abcDEF1234": "train", "Vvvvvvvvvv1": "val", "Tttttttttt1": "test"}
    assert all(clip.state == "ok" and clip.source_keys == {"youtube": id} for id, clip in clips.items())
    assert clips["Vvvvvvvvvv1"].qa[0].answers == tuple(f"val {n}" for n in range(5))
    assert clips["-abcDEF1234"].qa[0].answer == "Wind, then a door"
    assert found.counts["audio name"] == {"as in the table": 3}


def test_audiocaps_passes_over_other_corpora_with_the_same_columns(tmp_path: Path) -> None:
    for split in SPLITS:
        table(tmp_path / "csv_files" / f"{split}.csv", [["file_name", "caption_1"], ["Some rain 03.wav", "Rain."]])
    assert ADAPTERS["audiocaps"].find(tmp_path) is None
    (tmp_path / "csv_files" / "train.csv").write_bytes(b"file_name,caption\n\xff\xfe.wav,x\n")
    assert ADAPTERS["audiocaps"].find(tmp_path) is None


def test_audiocaps_prefers_the_folder_of_the_right_split(tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    audio = folder / "audio_32000Hz"
    # A better format and an earlier rule in another split's folder are no reason.
    wav(audio / "test" / "Vvvvvvvvvv1_120.flac")
    wav(audio / "validation" / "Tttttttttt1_60.flac")
    clips = read("audiocaps", tmp_path)
    assert clips["Vvvvvvvvvv1"].audio == audio / "val" / "Vvvvvvvvvv1_120000.wav"
    assert clips["Tttttttttt1"].audio == audio / "test" / "Tttttttttt1_60.WAV"
    (audio / "val" / "Vvvvvvvvvv1_120000.wav").unlink()
    assert read("audiocaps", tmp_path)["Vvvvvvvvvv1"].audio == audio / "test" / "Vvvvvvvvvv1_120.flac"


def test_audiocaps_two_windows_of_one_video_are_two_clips(tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    file = folder / "dataset" / "train.csv"
    file.write_bytes(file.read_bytes() + b"18,Bbbbbbbbbb1,50,A second window\r\n")
    wav(folder / "audio_32000Hz" / "train" / "Bbbbbbbbbb1_50.wav")
    clips = read("audiocaps", tmp_path)
    assert "Bbbbbbbbbb1" not in clips
    assert audio_name(clips["Bbbbbbbbbb1_50"]) == "Bbbbbbbbbb1_50.wav"
    assert clips["Bbbbbbbbbb1_50"].source_keys == clips["Bbbbbbbbbb1_0"].source_keys == {"youtube": "Bbbbbbbbbb1"}
    # `Bbbbbbbbbb1.wav` is there, but which window it holds cannot be told.
    assert clips["Bbbbbbbbbb1_0"].state == "missing"


def test_audiocaps_reads_a_table_with_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    file = corpora.audiocaps(tmp_path) / "dataset" / "train.csv"
    rows = [[12, "Bbbbbbbbbb1", "0.0", 'A dog "barks",\ntwice'], [13, " Cccccccccc1 ", "", "Water"]]
    table(file, [corpora.AUDIOCAPS_COLUMNS, *rows], encoding="utf-8-sig")
    clips = read("audiocaps", tmp_path)
    assert (
        clips["Bbbbbbbbbb1"].qa[0].answer == 'A dog "barks", twice' and clips["Bbbbbbbbbb1"].meta["start_time_s"] == 0
    )
    assert clips["Cccccccccc1"].state == "ok" and clips["Cccccccccc1"].meta == {}


def test_audiocaps_audio_may_lie_in_a_zip_with_the_folders_of_the_splits(tmp_path: Path) -> None:
    folder = corpora.audiocaps(tmp_path)
    wav(folder / "audio_32000Hz" / "test" / "Vvvvvvvvvv1_120.flac")
    archive = corpora.zipped(folder / "audio_32000Hz")
    clips = read("audiocaps", tmp_path)
    assert clips["Vvvvvvvvvv1"].audio == Path(f"{archive}!/audio_32000Hz/val/Vvvvvvvvvv1_120000.wav")
    assert [clip.id for clip in clips.values() if clip.state != "ok"] == ["Gone_______"]


def test_an_empty_caption_is_a_bad_annotation(tmp_path: Path) -> None:
    file = corpora.audiocaps(tmp_path) / "dataset" / "train.csv"
    file.write_bytes(file.read_bytes() + b"17,Ffffffffff1,3\r\n")
    clip = read("audiocaps", tmp_path)["Ffffffffff1"]
    assert clip.state == "bad_annotation" and clip.reason


# Clotho


def test_clotho_takes_file_names_as_they_are(tmp_path: Path) -> None:
    found = Findings()
    clips = built("clotho", tmp_path, found)
    assert {id: audio_name(clip) for id, clip in clips.items()} == {id: id.split("/")[1] for id in clips}
    assert "development/a, b &amp; c (1).wav" in clips and "development/Rumbling .wav" in clips
    train = clips["development/Some rain 03.wav"]
    assert [qa.answer for qa in train.qa] == [f"Som caption {n}." for n in range(1, 6)]
    assert train.source_keys == {"clotho": "Some rain 03", "freesound": "1000"}
    assert train.meta == {"keywords": "rain;caf\u00e9", "license": "CC0"}
    (qa,) = clips["evaluation/eval #1 @ home.wav"].qa
    assert len(qa.answers) == 5
    assert [clips[id].split for id in clips][-2:] == ["val", "test"]
    assert found.counts["audio name"] == {"as annotated": 6} and found.counts["captions a clip in train"] == {"5": 4}
    assert found.facts["encoding of clotho_metadata_development.csv"] == "latin-1"
    assert "1 audio files are in no caption table and left out" in found.notes  # of the test release
    assert "clips in split train: expected 3839, found 4" in found.notes


def test_clotho_tables_may_lie_beside_the_audio_folders_and_without_metadata(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path)
    for path in (folder / "clotho_csv_files").glob("clotho_captions_*"):
        path.rename(folder / path.name)
    shutil.rmtree(folder / "clotho_csv_files")
    for path in (folder / "clotho_audio_files").iterdir():
        path.rename(folder / path.name)
    clips = read("clotho", tmp_path, found := Findings())
    assert len(clips) == 6 and all(clip.state == "ok" for clip in clips.values())
    assert clips["validation/val one.wav"].source_keys == {"clotho": "val one"}
    assert any("no clotho_metadata_validation.csv" in note for note in found.notes)


def test_clotho_tables_may_lie_deep_in_a_folder_of_their_own_and_metadata_in_another(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path / "data")
    deep = folder / "annotations" / "v2.1"
    shutil.copytree(folder / "clotho_csv_files", deep)
    shutil.rmtree(folder / "clotho_csv_files")
    for path in deep.glob("clotho_metadata_*"):
        path.rename(folder / path.name)
    assert ADAPTERS["clotho"].find(tmp_path / "data") == folder
    clips = read("clotho", tmp_path / "data")
    assert len(clips) == 6 and clips["development/Rumbling .wav"].source_keys["freesound"] == "1001"


@pytest.mark.parametrize(
    ("annotated", "on_disk", "rule"),
    [
        ("police: background.wav", "police_background.wav", "illegal characters and blanks around them as _"),
        ("Wet : Metro Pass.wav", "Wet_Metro Pass.wav", "illegal characters and blanks around them as _"),
        ("what? now.wav", "what_ now.wav", "illegal characters as _"),
        ("Rain  two .wav", "Rain two.wav", "blanks folded"),
        ("a &#39;b&#39;.wav", "a 'b'.wav", "entities decoded"),
        ("caf\u00e9 noir.wav", "cafe\u0301 noir.WAV", "as annotated"),
    ],
)
def test_clotho_finds_files_whose_names_unpacking_has_changed(
    annotated: str, on_disk: str, rule: str, tmp_path: Path
) -> None:
    folder = corpora.clotho(tmp_path)
    file = folder / "clotho_csv_files" / "clotho_captions_validation.csv"
    file.write_bytes(file.read_bytes() + f'"{annotated}",one,two,three,four,five\n'.encode())
    wav(folder / "clotho_audio_files" / "validation" / on_disk)
    clip = read("clotho", tmp_path, found := Findings())[f"validation/{annotated}"]
    assert audio_name(clip) == on_disk
    assert found.counts["audio name"][rule] == (7 if rule == "as annotated" else 1)


def test_clotho_never_takes_a_similar_name_while_the_exact_one_is_there(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path) / "clotho_audio_files" / "development"
    wav(folder / "Rumbling.wav")
    wav(folder / "a, b & c (1).flac")
    clips = read("clotho", tmp_path)
    assert audio_name(clips["development/Rumbling .wav"]) == "Rumbling .wav"
    assert audio_name(clips["development/a, b &amp; c (1).wav"]) == "a, b &amp; c (1).wav"


def test_clotho_finds_audio_only_in_the_folder_of_its_part(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path) / "clotho_audio_files"
    (folder / "validation" / "val one.wav").rename(folder / "test" / "val one.wav")
    wav(folder / "validation" / "another.wav")
    litter(folder / "validation" / "val one.wav")
    clip = read("clotho", tmp_path)["validation/val one.wav"]
    assert (clip.state, clip.reason) == ("missing", "no audio file named val one.wav")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_clotho_metadata_may_have_been_saved_again_as_utf8(encoding: str, tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path) / "clotho_csv_files"
    rows = [["val one.wav", "caf\u00e9;rue", "Not found", "", "", "", "CC0"]]
    table(folder / "clotho_metadata_validation.csv", [CLOTHO_METADATA, *rows], encoding=encoding, line_end="\r\n")
    clip = read("clotho", tmp_path, found := Findings())["validation/val one.wav"]
    assert clip.meta["keywords"] == "caf\u00e9;rue" and clip.source_keys == {"clotho": "val one"}
    assert found.counts["Freesound id"] == {"number": 5, "none (Not found)": 1}
    assert found.facts["encoding of clotho_metadata_validation.csv"] == "utf-8-sig"


def test_clotho_audio_may_lie_in_zips(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path)
    archive = corpora.zipped(folder / "clotho_audio_files" / "development")
    clips = read("clotho", tmp_path)
    assert clips["development/Rumbling .wav"].audio == Path(f"{archive}!/development/Rumbling .wav")
    assert {clip.state for clip in clips.values()} == {"ok"}


def test_clotho_counts_the_captions_of_each_clip(tmp_path: Path) -> None:
    file = corpora.clotho(tmp_path) / "clotho_csv_files" / "clotho_captions_validation.csv"
    file.write_bytes(file.read_bytes() + b"val two.wav,one, ,three\nval three.wav,,,,,\n")
    clips = read("clotho", tmp_path, found := Findings())
    assert clips["validation/val two.wav"].qa[0].answers == ("one", "three")
    assert clips["validation/val three.wav"].state == "bad_annotation"
    assert found.counts["captions a clip in val"] == {"5": 1, "2": 1, "0": 1}


def test_clotho_yields_a_doubled_row_twice_for_the_plan_to_refuse(tmp_path: Path) -> None:
    folder = corpora.clotho(tmp_path)
    file = folder / "clotho_csv_files" / "clotho_captions_validation.csv"
    file.write_bytes(file.read_bytes() + b"val one.wav,one,two,three,four,five\n")
    ids = [clip.id for clip in ADAPTERS["clotho"].clips(folder, Findings())]
    assert ids.count("validation/val one.wav") == 2
