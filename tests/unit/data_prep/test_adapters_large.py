"""Adapters of MusicQA and SoundDescs: tiny copies in their public layouts, with the defects that real ones have."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import corpora_large as corpora
import pytest
from corpus_files import dump, text, wav
from reading import answers, audio_name, built, read

from data_prep.adapters.base import Findings
from pipeline.errors import CorpusError


def test_musicqa_native_questions_and_parts(tmp_path: Path) -> None:
    clips = built("musicqa", tmp_path)
    assert [(qa.question, qa.answer) for qa in clips["000001"].qa] == [
        ("Describe the audio", "A slow waltz."),
        ("Tempo?", "Slow"),
    ]
    assert {id: clip.split for id, clip in clips.items()} == {
        "000001": "train",
        "005522": "train",
        "005523": "train",
        "012542": "test",
    }
    assert clips["005523"].state == "bad_annotation"
    assert clips["012542"].source_keys == {"track": "musicqa-012542"}


@pytest.mark.parametrize("part", ["Pretrain", "Finetune", "Eval"])
def test_musicqa_of_one_part_alone_notes_the_others(part: str, tmp_path: Path) -> None:
    folder = corpora.musicqa(tmp_path)
    for file in folder.glob("*.json"):
        if not file.name.startswith(part):
            file.unlink()
    found = Findings()
    clips = read("musicqa", tmp_path, found)
    assert {clip.meta["part"] for clip in clips.values()} == {f"{part}MusicQA"}
    gone = [note for note in found.notes if "is not there" in note]
    assert len(gone) == 2 and not any(part in note for note in gone)


def test_musicqa_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    found = Findings()
    built("musicqa", tmp_path, found)
    assert "audio files in test: expected 560, found 1" in found.notes
    assert "questions in train: expected 112878, found 3" in found.notes


def test_musicqa_in_a_zip_and_in_the_layout_of_the_repository(tmp_path: Path) -> None:
    folder = corpora.musicqa(tmp_path)
    corpora.pack(folder / "audios.zip", {f"x/{path.name}": path for path in sorted((folder / "audios").glob("0*.wav"))})
    for file in sorted(folder.glob("*.json")):
        (folder / "MusicQA").mkdir(exist_ok=True)
        file.rename(folder / "MusicQA" / file.name)
    clips = read("musicqa", tmp_path)
    assert [clip.state for clip in clips.values()] == ["ok", "ok", "bad_annotation", "ok"]
    assert clips["000001"].audio == folder / "audios.zip!" / "x" / "000001.wav"


@pytest.mark.parametrize(
    "conversation",
    [
        [{"from": "human", "value": "Genre?"}],
        [{"from": "gpt", "value": "Rock"}, {"from": "human", "value": "Genre?"}],
        [{"from": who, "value": "x"} for who in ("human", "gpt", "human", "gpt")],
        ["Genre?", "Rock"],
        None,
    ],
)
def test_musicqa_takes_one_question_and_one_answer_only(conversation: Any, tmp_path: Path) -> None:
    folder = corpora.musicqa(tmp_path)
    bad = {"audio_name": "005522.wav", "conversation": conversation}
    dump(folder / "FinetuneMusicQA.json", [bad, bad | {"audio_name": "005523.wav"}, corpora.turns("005523", "Q?", "A")])
    found = Findings()
    clips = read("musicqa", tmp_path, found)
    assert clips["005522"].state == "bad_annotation" and "one question and one answer" in clips["005522"].reason
    assert [qa.question for qa in clips["005523"].qa] == ["Q?"] and clips["005523"].state == "ok"
    assert found.counts["conversations"]["not one question and one answer"] == 2


def test_musicqa_generated_again(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    fixed = ["A waltz.", "A slow; sad waltz.", "A piano.", 'It says "Wien".']
    corpora.musicqa_table(
        folder / "MusicCaps" / "MusicCapsAQA.csv",
        {"[-bcDEFghi01]-[30-40].wav": [*fixed, "Q:Tempo?\tA: Slow", "Q:Mood?\tA:Sad", "no answer", "", "Q:\tA:x"]},
    )
    corpora.musicqa_table(folder / "MTG" / "MTG_AQA.csv", {"00/1000.mp3": [*fixed, *["Q:Key?\tA:C"] * 5]})
    wav(folder / "MusicCaps" / "audios" / "[-bcDEFghi01]-[30-40].wav")
    wav(folder / "MTG" / "audios" / "00" / "1000.mp3")
    clips = read("musicqa", tmp_path)
    assert list(clips) == ["[-bcDEFghi01]-[30-40]", "1000"]
    waltz = clips["[-bcDEFghi01]-[30-40]"]
    assert [qa.answer for qa in waltz.qa] == [*fixed, "Slow", "Sad"] and waltz.qa[4].question == "Tempo?"
    assert waltz.source_keys == {"youtube": "-bcDEFghi01"} and waltz.split == "train"
    assert clips["1000"].split == "test" and audio_name(clips["1000"]) == "1000.mp3"


def test_musicqa_both_train_parts_in_one_file_count_only_where_neither_is_there(tmp_path: Path) -> None:
    folder = corpora.musicqa(tmp_path)
    dump(folder / "MusicQA.json", [corpora.turns("000001", "Key?", "C")])
    assert [qa.question for qa in read("musicqa", tmp_path)["000001"].qa] == ["Describe the audio", "Tempo?"]
    for part in ("Pretrain", "Finetune"):
        (folder / f"{part}MusicQA.json").unlink()
    clips = read("musicqa", tmp_path)
    assert sorted(clips) == ["000001", "012542"] and clips["000001"].qa[0].question == "Key?"


def test_musicqa_names_the_record_that_is_broken(tmp_path: Path) -> None:
    file = corpora.musicqa(tmp_path) / "EvalMusicQA.json"
    dump(file, [corpora.turns("012542", "Mood?", "Calm"), {"name": "x"}])
    with pytest.raises(CorpusError) as error:
        read("musicqa", tmp_path)
    assert error.value.where == {"file": file, "record": 1, "key": "audio_name"} and error.value.hint


def test_sounddescs_reads_pickles_nested_and_flat_audio(tmp_path: Path) -> None:
    found = Findings()
    clips = built("sounddescs", tmp_path, found)
    assert answers(clips["07051146"]) == {"caption": "Door, int. - closes.", "category": "Doors and Interiors"}
    assert answers(clips["nhu05001001"]) == {"caption": "Birds at dawn."}
    assert clips["nhu05001001"].source_keys == {"bbc": "nhu05001001"}
    assert audio_name(clips["07000001"]) == "07000001.wav" and clips["07000001"].split == "val"
    assert clips["07000002"].state == "bad_annotation"
    assert found.counts["description shape"] == {"str": 2, "list": 1}
    assert found.counts["audio layout"] == {"<id>/<id>": 2, "<id>": 2}
    assert "ids in train_list.txt: expected 23085, found 2" in found.notes


@pytest.mark.parametrize(
    ("value", "shape", "caption"),
    [
        ("  A\n door. ", "str", "A door."),
        (["A door.", "It closes."], "list", "A door."),
        ([["A", "door."]], "words", "A door."),
        (["A", "door."], "words", "A door."),
        ({"description": "A door."}, "dict", "A door."),
        (("Cafe\u0301 door.",), "list", "Caf\u00e9 door."),
    ],
)
def test_sounddescs_takes_any_shape_of_description(value: Any, shape: str, caption: str, tmp_path: Path) -> None:
    folder = corpora.sounddescs(tmp_path)
    (folder / "sounddescs_data" / "descriptions.pkl").write_bytes(pickle.dumps({"07051146": value}))
    found = Findings()
    clips = read("sounddescs", tmp_path, found)
    assert answers(clips["07051146"])["caption"] == caption
    assert found.counts["description shape"] == {shape: 1}


def test_sounddescs_ids_in_any_case_and_lists_of_other_systems(tmp_path: Path) -> None:
    folder = corpora.sounddescs(tmp_path)
    (folder / "sounddescs_data" / "descriptions.pkl").write_bytes(
        pickle.dumps({"NHU05001001": "Birds.", "07051146": "Door.", "07099999": "In no list."})
    )
    (folder / "sounddescs_data" / "extra_info.pkl").write_bytes(
        pickle.dumps({"NHU05001001": "File info: WAV, 44.1KHz"})
    )
    text(folder / "data" / "SoundDescs" / "train_list.txt", "\ufeffNHU05001001\r\n\r\n07051146\r\n07000001")
    (folder / "audios" / "nhu05001001").rename(folder / "audios" / "NHU05001001")
    found = Findings()
    clips = read("sounddescs", tmp_path, found)
    assert list(clips) == ["nhu05001001", "07051146", "07000001", "07000002"]
    assert clips["nhu05001001"].state == "ok" and clips["nhu05001001"].meta == {"extra_info": "File info: WAV, 44.1KHz"}
    assert clips["07000001"].split == "val", "an id that is held out is not trained on"
    assert "1 described sounds are in no split list and are left out" in found.notes
    assert any("1 ids of val_list.txt are listed more than once" in note for note in found.notes)


def test_sounddescs_still_packed(tmp_path: Path) -> None:
    folder = corpora.sounddescs(tmp_path)
    packed = folder / "zip_audios"
    corpora.pack(
        packed / "nhu05001001" / "NHU05001001.wav.zip",
        {"NHU05001001.wav": folder / "audios" / "nhu05001001" / "nhu05001001.wav"},
    )
    corpora.pack(
        packed / "07051146" / "07051146.wav.zip", {"track.wav": folder / "audios" / "07051146" / "07051146.wav"}
    )
    found = Findings()
    clips = read("sounddescs", tmp_path, found)
    assert clips["nhu05001001"].audio == packed / "nhu05001001" / "NHU05001001.wav.zip!" / "NHU05001001.wav"
    assert clips["07051146"].audio == packed / "07051146" / "07051146.wav.zip!" / "track.wav"
    assert found.counts["audio layout"] == {"<id>": 2, "in a zip": 1, "<id>/<another name>": 1}


def test_sounddescs_audio_beside_the_repository(tmp_path: Path) -> None:
    folder = corpora.sounddescs(tmp_path / "inner")
    for name in ("audios", "07000001.wav", "07000002.WAV"):
        (folder / name).rename(tmp_path / "inner" / name)
    clips = read("sounddescs", tmp_path)
    assert [clips[id].state for id in ("07051146", "nhu05001001", "07000001")] == ["ok", "ok", "ok"]


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_sounddescs_refuses_a_pickle_that_runs_code(tmp_path: Path) -> None:
    file = corpora.sounddescs(tmp_path) / "sounddescs_data" / "descriptions.pkl"
    trap = tmp_path / "was_run"
    file.write_bytes(pickle.dumps({"07051146": _Malicious(trap)}))
    with pytest.raises(CorpusError, match="not allowed") as error:
        read("sounddescs", tmp_path)
    assert error.value.where["file"] == file
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(["a list"])])
@pytest.mark.parametrize("name", ["categories", "extra_info"])
def test_sounddescs_refuses_what_is_no_pickled_mapping(name: str, content: bytes, tmp_path: Path) -> None:
    file = corpora.sounddescs(tmp_path) / "sounddescs_data" / f"{name}.pkl"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"{name}\.pkl"):
        read("sounddescs", tmp_path)
