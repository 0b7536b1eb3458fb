"""Adapters of the voice corpora: tiny copies in their public layouts, with the defects that real ones have."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import corpora_voices as corpora
import pytest
from corpus_files import litter, table, text, wav
from reading import answers, audio_name, built, read, splits_of

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings, SourceClip
from pipeline.errors import ConfigError, CorpusError


def every(name: str, root: Path, found: Findings | None = None, **options: str) -> list[SourceClip]:
    """Clips as the planner gets them, repeated ids included."""
    adapter = ADAPTERS[name].with_options(options)
    folder = adapter.find(root)
    assert folder is not None
    return list(adapter.clips(folder, found or Findings()))


# IEMOCAP


def test_iemocap_labels_speakers_and_whole_sessions(tmp_path: Path) -> None:
    found = Findings()
    clips = built("iemocap", tmp_path, found)
    assert len(clips) == 15  # xxx is not one of the classes
    excited = clips["Ses02F_impro01_M000"]
    assert answers(excited) == {"emotion": "happy", "emotion_choice": "happy", "gender": "male"}
    # The F of Ses02F is the actor with the markers, not the speaker.
    assert excited.source_keys == {
        "session": "iemocap-2",
        "dialogue": "iemocap-Ses02F_impro01",
        "speaker": "iemocap-2M",
    }
    assert excited.meta == {"label": "exc", "transcript": "Caf\u00e9, please."}
    assert {clip.split for clip in clips.values() if clip.id.startswith("Ses05")} == {"test"}
    assert {clip.split for clip in clips.values() if not clip.id.startswith("Ses05")} == {"train"}
    assert clips["Ses01F_impro01_M001"].state == "missing"
    assert audio_name(clips["Ses01F_impro01_F000"]) == "Ses01F_impro01_F000.wav"
    assert found.counts["label"] == Counter(neu=5, exc=5, xxx=5, ang=5)
    assert found.counts["utterance"]["name without speaker and number"] == 5
    assert "labelled utterances: expected 10039, found 20" in found.notes
    assert "utterances of the four classes: expected 5531, found 15" in found.notes


def test_iemocap_text_saved_on_windows_reads_alike(tmp_path: Path) -> None:
    clips = built("iemocap", tmp_path)
    windows = clips["Ses03F_impro01_F000"]  # the first line of its transcript follows a byte order mark
    assert windows.meta["transcript"] == "Caf\u00e9, please."
    assert audio_name(windows) == "Ses03F_impro01_F000.WAV"


def test_iemocap_sessions_are_the_groups_that_are_held_out(tmp_path: Path) -> None:
    clips = built("iemocap", tmp_path, test_session="2")
    by_session: dict[str, set[str]] = {}
    for clip in clips.values():
        by_session.setdefault(clip.source_keys["session"], set()).add(clip.split)
    assert by_session == {f"iemocap-{n}": {"test" if n == 2 else "train"} for n in range(1, 6)}


def test_iemocap_label_options(tmp_path: Path) -> None:
    corpora.iemocap(tmp_path)
    apart = read("iemocap", tmp_path, merge_excited="no")
    assert Counter(clip.meta["label"] for clip in apart.values()) == Counter(neu=5, ang=5)
    nine = read("iemocap", tmp_path, labels="all", merge_excited="no")
    assert answers(nine["Ses02F_impro01_M000"])["emotion"] == "excited"
    merged = read("iemocap", tmp_path, labels="all")
    assert answers(merged["Ses02F_impro01_M000"])["emotion"] == "happy"
    assert not any(clip.meta["label"] == "xxx" for clip in nine.values())
    choice = next(qa for qa in nine["Ses02F_impro01_M000"].qa if qa.id.endswith("emotion_choice"))
    assert "excited" in choice.question
    assert not any("excited" in qa.question for clip in merged.values() for qa in clip.qa)


def test_iemocap_words_are_asked_on_request(tmp_path: Path) -> None:
    clip = built("iemocap", tmp_path, transcript="yes")["Ses02F_impro01_M000"]
    assert answers(clip)["transcript"] == "Caf\u00e9, please."


def test_iemocap_without_transcripts_has_emotions_still(tmp_path: Path) -> None:
    folder = corpora.iemocap(tmp_path)
    (folder / "Session4" / "dialog" / "transcriptions" / "Ses04F_impro01.txt").unlink()
    found = Findings()
    clip = read("iemocap", tmp_path, found, transcript="yes")["Ses04F_impro01_F000"]
    assert set(answers(clip)) == {"emotion", "emotion_choice", "gender"}
    assert found.counts["transcript"]["missing"] == 3


def test_iemocap_labels_beyond_the_documented_are_named(tmp_path: Path) -> None:
    file = corpora.iemocap(tmp_path) / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    file.write_bytes(file.read_bytes().replace(b"\tang\t", b"\tbored\t"))
    found = Findings()
    read("iemocap", tmp_path, found)
    assert "labels that the corpus does not document, left out: bored" in found.notes


@pytest.mark.parametrize(
    ("option", "value"), [("test_session", "6"), ("labels", "five"), ("merge_excited", "perhaps"), ("test_sesion", "1")]
)
def test_a_wrong_option_is_named(option: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        ADAPTERS["iemocap"].with_options({option: value})
    assert error.value.where == {"option": f"iemocap.{option}"}
    assert error.value.got == value


# PromptSpeech


def test_promptspeech_attributes_and_subsets(tmp_path: Path) -> None:
    found = Findings()
    clips = built("promptspeech", tmp_path, found)
    man = clips["1089_134686_000003_000000"]
    assert answers(man) == {
        "style": "A man, speaking loudly and slowly.",
        "gender": "male",
        "pitch": "low",
        "speed": "slow",
        "energy": "high",
    }
    assert man.source_keys == {"libritts": man.id, "speaker": "libritts-1089"}
    assert splits_of(clips)["237_126133_000002_000001"] == "test"
    odd = clips["26_495_000009_000001"]
    assert odd.state == "missing" and set(answers(odd)) == {"style", "gender", "pitch"}
    assert found.counts["LibriTTS subset"] == Counter({"train-clean-100": 1, "train-other-500": 1, "test-clean": 1})
    assert any(note.startswith("1 utterances have no audio") and "train-clean-360" in note for note in found.notes)
    assert "rows of train: expected 26588, found 3" in found.notes
    assert "rows of test: expected 1305, found 1" in found.notes


def test_promptspeech_tables_of_other_names_columns_and_line_ends(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    for name in ("Real_training.csv", "Real_test.csv"):
        (folder / name).unlink()
    header = [*corpora.PROMPT_COLUMNS, "txt", "emotion"]
    header[header.index("energy")] = "volume"
    row = [
        "26_495_000004_000000.wav",
        26,
        "female",
        "normal",
        "fast",
        "high",
        'Say it "fast", please',
        "Two  words",
        "sad",
    ]
    table(folder / "Real_training" / "part1.CSV", [header, row], line_end="\r\n", encoding="utf-8-sig")
    row = ["237_126133_000002_000001", 237, "F", "high", "normal", "low", "A soft voice", "x", "nan"]
    table(folder / "Real_test_v2" / "all.csv", [header, row])
    litter(folder / "Real_training" / "part1.CSV")
    wav(folder / "LibriTTS" / "dev-clean" / "84" / "121123" / "84_121123_000007_000000.WAV")
    row = ["84_121123_000007_000000", 84, "M", "low", "slow", "low", "A deep voice", "", ""]
    table(folder / "validation.csv", [header, row])
    clips = read("promptspeech", tmp_path)
    assert splits_of(clips) == {
        "26_495_000004_000000": "train",
        "237_126133_000002_000001": "test",
        "84_121123_000007_000000": "val",
    }
    first = clips["26_495_000004_000000"]
    assert answers(first)["energy"] == "high" and answers(first)["emotion"] == "sad"
    assert answers(first)["style"] == 'Say it "fast", please'
    assert first.meta == {"transcript": "Two words"}
    assert "emotion" not in answers(clips["237_126133_000002_000001"])
    assert audio_name(clips["84_121123_000007_000000"]) == "84_121123_000007_000000.WAV"


def test_promptspeech_row_in_two_tables_stays_in_test(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    lines = (folder / "Real_training.csv").read_text(encoding="utf-8-sig").splitlines()
    text(folder / "Real_training.csv", "\n".join([*lines, (folder / "Real_test.csv").read_text().splitlines()[1]]))
    clips = [clip for clip in every("promptspeech", tmp_path) if clip.id == "237_126133_000002_000001"]
    assert [clip.split for clip in clips] == ["test", "train"]  # the planner keeps the first of a repeated id


def test_promptspeech_name_of_a_table_goes_before_its_folder(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    before = splits_of(read("promptspeech", tmp_path))
    (folder / "Real_train_and_test").mkdir()
    for name in ("Real_training.csv", "Real_test.csv"):
        (folder / name).rename(folder / "Real_train_and_test" / name)
    assert splits_of(read("promptspeech", tmp_path)) == before


def test_promptspeech_says_when_the_audio_is_the_restored_one(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    found = Findings()
    read("promptspeech", tmp_path, found)
    assert not any("LibriTTS-R" in note for note in found.notes)
    (folder / "LibriTTS").rename(folder / "LibriTTS_R")
    read("promptspeech", tmp_path, found)
    assert any("LibriTTS-R" in note for note in found.notes)
    both = wav(folder / "LibriTTS" / "train-clean-100" / "1089" / "134686" / "1089_134686_000003_000000.wav")
    assert read("promptspeech", tmp_path)["1089_134686_000003_000000"].audio == both


def test_promptspeech_synthesised_tables_are_read_on_request(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    row = ["voice_1", "Amy", "F", "high", "fast", "low", "A quick voice"]
    table(folder / "Synthesized_training.csv", [corpora.PROMPT_COLUMNS, row])
    found = Findings()
    assert "voice_1" not in read("promptspeech", tmp_path, found)
    assert any("Synthesized_training.csv is left out" in note for note in found.notes)
    clip = read("promptspeech", tmp_path, synthesised="yes")["voice_1"]
    assert (clip.state, clip.source_keys) == ("missing", {"utterance": "voice_1", "speaker": "promptspeech-Amy"})


def test_promptspeech_speakers_dealt_anew_share_no_split(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    rows = [
        [f"{speaker}_1_000001_00000{n}", speaker, "F", "low", "slow", "low", "Slow"]
        for speaker in range(100, 140)
        for n in range(3)
    ]
    table(folder / "Real_training.csv", [corpora.PROMPT_COLUMNS, *rows])
    found = Findings()
    clips = read("promptspeech", tmp_path, found, split="speaker")
    assert "237_126133_000002_000001" not in clips
    assert found.counts["row"]["of test, in no split of the speakers, left out"] == 1
    of_speaker: dict[str, set[str]] = {}
    for clip in clips.values():
        of_speaker.setdefault(clip.source_keys["speaker"], set()).add(clip.split)
    assert all(len(splits) == 1 for splits in of_speaker.values())
    assert {split for splits in of_speaker.values() for split in splits} == {"train", "val", "test"}


@pytest.mark.parametrize(("key", "name"), [("spk_id", "1089"), ("item_name", "1089_134686_000003_000000")])
def test_promptspeech_split_by_a_given_list(key: str, name: str, tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    table(folder / "stylecap.csv", [[key, "split"], [name, "dev"]])
    clips = read("promptspeech", tmp_path, split="speaker", split_list="stylecap.csv")
    assert splits_of(clips) == {"1089_134686_000003_000000": "val"}


@pytest.mark.parametrize(
    ("content", "got"),
    [("item,part\n1,train\n", "item, part"), ("spk_id,split\n26,best\n", "best"), (None, "no such file")],
)
def test_promptspeech_list_that_cannot_be_used_is_named(content: str | None, got: str, tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    if content is not None:
        text(folder / "list.csv", content)
    with pytest.raises(ConfigError) as error:
        read("promptspeech", tmp_path, split="speaker", split_list="list.csv")
    assert (error.value.where["file"], error.value.got) == (folder / "list.csv", got)


# TextrolSpeech


def test_textrolspeech_turns_paths_into_names(tmp_path: Path) -> None:
    found = Findings()
    clips = built("textrolspeech", tmp_path, found)
    names = {id: audio_name(clip) for id, clip in clips.items() if clip.audio}
    assert names["MEAD-M026-audio-surprised-level_1-013"] == "013.wav"
    assert names["RAVDESS-Actor_01-03-01-04-01-01-01-01"] == "03-01-04-01-01-01-01.wav"
    assert any(name == "0020_000746.wav" for name in names.values())
    assert names["CREMA-D-AudioWAV-1060_IWL_FEA_XX"] == "1060_IWL_FEA_XX.wav"
    assert clips["MEAD-M027-audio-sad-level_1-013"].state == "missing"
    libritts = clips["1089_134686_000003_000000"]
    assert "emotion" not in answers(libritts)
    assert libritts.source_keys == {"libritts": libritts.id, "speaker": "libritts-1089"}
    mead = clips["MEAD-M026-audio-surprised-level_1-013"]
    assert answers(mead) == {
        "style": "Style, number 1",
        "gender": "male",
        "pitch": "low",
        "speed": "fast",
        "energy": "normal",
        "emotion": "surprised",
    }
    assert mead.source_keys == {"utterance": mead.id, "speaker": "mead-M026"}
    assert mead.meta == {"part": "MEAD", "table": "random_train", "transcript": "words"}
    assert list(splits_of(clips).values()).count("test") == 1
    assert found.counts["audio"]["MEAD missing"] == 1
    assert found.counts["audio name"] == Counter({"item name": 3, "wav_fp": 1, "utterance id": 1, "no rule matched": 1})
    assert "pairs: expected 236220, found 6" in found.notes and "rows of test: expected 200, found 1" in found.notes


def test_textrolspeech_path_never_leaves_the_corpus(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path)
    outside = wav(tmp_path / "outside.wav")
    file = folder / "caption" / "random_test.csv"
    rows = list(csv.reader(file.read_text().splitlines()))
    for number, path in enumerate((str(outside), "../outside.wav", "caption/../../outside.wav")):
        table(file, [rows[0], [*rows[1][:1], path, f"MEAD-nobody-{number}", *rows[1][3:]]])
        assert read("textrolspeech", tmp_path)[f"MEAD-nobody-{number}"].state == "missing"


def test_textrolspeech_path_of_the_table_goes_before_the_name(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path)
    file = folder / "caption" / "random_test.csv"
    rows = list(csv.reader(file.read_text().splitlines()))
    other = "C:\\data\\emotion_dataset\\MEAD\\M026\\audio\\surprised\\level_1\\013.wav"
    table(file, [rows[0], [*rows[1][:1], other, *rows[1][2:]]], line_end="\r\n")
    clip = read("textrolspeech", tmp_path)["CREMA-D-AudioWAV-1060_IWL_FEA_XX"]
    assert audio_name(clip) == "013.wav"


def to_lines(file: Path) -> None:
    """A table as JSON lines, with a byte order mark, CRLF and numbers and nulls instead of text."""
    with open(file, newline="") as content:
        rows = list(csv.DictReader(content))
    records = [
        {**row, "num": int(row["num"]), "emotion": None if row["emotion"] == "nan" else row["emotion"]} for row in rows
    ]
    text(file.with_suffix(".jsonl"), "\ufeff" + "\r\n".join(json.dumps(record) for record in records) + "\r\n")
    file.unlink()


def test_textrolspeech_lines_read_as_tables_do(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path)
    tables = every("textrolspeech", tmp_path)
    to_lines(folder / "caption" / "random_train.csv")
    mixed = every("textrolspeech", tmp_path)
    to_lines(folder / "caption" / "random_test.csv")
    assert tables == mixed == every("textrolspeech", tmp_path)


def test_textrolspeech_lines_that_are_damaged_are_named(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path)
    to_lines(folder / "caption" / "random_train.csv")
    file = folder / "caption" / "random_train.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(CorpusError) as error:
        read("textrolspeech", tmp_path)
    assert error.value.where == {"file": file, "line": 5}
    file.write_bytes(content.replace(b'"style_prompt"', b'"prompt"'))
    with pytest.raises(CorpusError) as error:
        read("textrolspeech", tmp_path)
    assert error.value.where == {"file": file, "column": "style_prompt"}


def test_textrolspeech_clip_in_both_tables_stays_in_test(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path) / "caption"
    test_row = (folder / "random_test.csv").read_text().splitlines()[1]
    text(folder / "random_train.csv", (folder / "random_train.csv").read_text() + test_row + "\n")
    clips = [clip for clip in every("textrolspeech", tmp_path) if clip.id.startswith("CREMA-D")]
    assert [clip.split for clip in clips] == ["test", "train"]


def test_controlspeech_clip_in_two_tables_stays_in_test(tmp_path: Path) -> None:
    folder = corpora.controlspeech(tmp_path) / "VccmDataset"
    row = (folder / "controlspeech_test.csv").read_text().splitlines()[1]
    train = folder / "controlspeech_train.csv"
    text(train, train.read_text() + row + "\n")
    clips = [clip for clip in every("textrolspeech", tmp_path) if clip.id == "SAVEE-ALL-DC_d08"]
    assert [clip.split for clip in clips] == ["test", "train"]


def test_controlspeech_tables_speakers_and_missing_parts(tmp_path: Path) -> None:
    corpora.controlspeech(tmp_path)
    found = Findings()
    clips = read("textrolspeech", tmp_path, found)
    assert {id: clip.source_keys["speaker"] for id, clip in clips.items()} == {
        item: speaker for item, (speaker, _) in corpora.CONTROLSPEECH_CLIPS.items()
    }
    for item, (_, path) in corpora.CONTROLSPEECH_CLIPS.items():
        assert (clips[item].state, audio_name(clips[item]) if path else "") == (
            "ok" if path else "missing",
            Path(path).name,
        )
    assert Counter(splits_of(clips).values()) == Counter(train=5, test=3)
    assert clips["CREMA-D-AudioWAV-1060_IWL_FEA_XX"].meta["table"] == "controlspeech_test_undomain_timbre"
    assert clips["p225_001"].source_keys == {"vctk": "p225_001", "speaker": "vctk-p225"}
    assert found.counts["audio name"]["item name but for blanks and case"] == 1  # "MESS compressed", MESScompressed
    assert found.counts["emotion"] == Counter(none=2)
    assert any("CREMA-D is not in the published archive of speech: 1 clips" in note for note in found.notes)
    assert any("controlspeech_test_prompt.csv is left out" in note for note in found.notes)
    assert "rows of controlspeech_test: expected 1500, found 2" in found.notes


def test_controlspeech_dur_is_a_class_of_tempo(tmp_path: Path) -> None:
    corpora.controlspeech(tmp_path)
    found = Findings()
    speeds = [answers(clip)["speed"] for clip in read("textrolspeech", tmp_path, found).values()]
    assert sorted(speeds) == ["fast"] * 2 + ["normal"] * 3 + ["slow"] * 3
    assert found.facts["dur as tempo"] == "5 style prompts agree, 0 contradict"


def test_dur_that_contradicts_the_style_prompts_is_not_asked(tmp_path: Path) -> None:
    corpora.controlspeech(tmp_path, contradictory=True)
    found = Findings()
    clips = read("textrolspeech", tmp_path, found)
    assert all({"style", "pitch"} <= set(answers(clip)) and "speed" not in answers(clip) for clip in clips.values())
    assert any("speed is not asked" in note for note in found.notes)


def test_textrolspeech_goes_before_controlspeech(tmp_path: Path) -> None:
    folder = corpora.textrolspeech(tmp_path)
    table(folder / "caption" / "controlspeech_train.csv", [corpora.CONTROLSPEECH_COLUMNS])
    found = Findings()
    assert len(read("textrolspeech", tmp_path, found)) == 6
    assert any("tables of ControlSpeech" in note for note in found.notes)


def test_names_that_differ_by_case_alone_are_not_mixed_up(tmp_path: Path) -> None:
    folder = corpora.controlspeech(tmp_path)
    wav(folder / "emotion_dataset" / "mess compressed" / "cm3t07_scr.wav")
    assert read("textrolspeech", tmp_path)["MESS compressed-CM3T07_SCR"].state == "missing"  # two files could be meant
    exact = wav(folder / "emotion_dataset" / "MESS compressed" / "CM3T07_SCR.wav")
    assert read("textrolspeech", tmp_path)["MESS compressed-CM3T07_SCR"].audio == exact


def test_a_row_without_a_name_is_told_by_its_place(tmp_path: Path) -> None:
    folder = corpora.promptspeech(tmp_path)
    row = [" ", 26, "F", "normal", "fast", "normal", "Say it"]
    table(folder / "Real_test.csv", [corpora.PROMPT_COLUMNS, row])
    clip = read("promptspeech", tmp_path)["Real_test.csv#1"]
    assert (clip.state, clip.reason) == ("bad_annotation", "the row has no item_name")
