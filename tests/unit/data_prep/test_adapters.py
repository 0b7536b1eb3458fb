"""Each adapter on a tiny corpus in its public layout, with the defects that real copies have."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path

import corpus_fixtures as fixtures
import pytest

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import SourceClip
from data_prep.adapters.openaqa import REFUSALS
from pipeline.errors import CorpusError
from pipeline.types import DOMAINS, SPLITS

NAMES = sorted(fixtures.BUILDERS)


def read(name: str, root: Path) -> dict[str, SourceClip]:
    """Build nothing, find and read: the clips of a corpus by id."""
    adapter = ADAPTERS[name]
    folder = adapter.find(root)
    assert folder is not None
    clips = list(adapter.clips(folder))
    by_id = {clip.id: clip for clip in clips}
    assert len(by_id) == len(clips), "clip ids are not unique"
    return by_id


def built(name: str, root: Path) -> dict[str, SourceClip]:
    fixtures.BUILDERS[name](root)
    return read(name, root)


def answers(clip: SourceClip) -> dict[str, str]:
    return {qa.id.removeprefix(f"{clip.id}/"): qa.answer for qa in clip.qa}


def audio_name(clip: SourceClip) -> str:
    assert clip.audio is not None and clip.audio.is_file()
    return clip.audio.name


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
    folder = fixtures.musicqa(tmp_path / "a" / "b").rename(tmp_path / "a" / "b" / "anything")
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
        ("musicqa", "EvalMusicQA.json"),
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
        list(ADAPTERS[name].clips(tmp_path))
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
    fixtures.table(folder / file, [[*row[:at], *row[at + 1 :]] for row in rows], delimiter=delimiter)
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
    file = fixtures.audiocaps(tmp_path) / "dataset" / "train.csv"
    file.write_bytes(file.read_bytes() + "17,Ffffffffff1,3,Caf\u00e9\r\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"utf-8.*train\.csv|train\.csv[\s\S]*utf-8"):
        read("audiocaps", tmp_path)


def test_audiocaps_resolves_every_file_naming_rule(tmp_path: Path) -> None:
    clips = built("audiocaps", tmp_path)
    found = {id: audio_name(clip) for id, clip in clips.items() if clip.audio}
    assert found == {
        "-abcDEF1234": "-abcDEF1234_30.flac",
        "Bbbbbbbbbb1": "Bbbbbbbbbb1.wav",
        "Cccccccccc1": "YCccccccccc1.wav",
        "Dddddddddd1": "14.wav",
        "Eeeeeeeeee1": "Eeeeeeeeee1-[40-50].wav",
        "Vvvvvvvvvv1": "Vvvvvvvvvv1_120000.wav",
        "Tttttttttt1": "Tttttttttt1_60.WAV",
    }
    gone = clips["Gone_______"]
    assert (gone.state, gone.audio) == ("missing", None) and "Gone________10" in gone.reason
    comma = clips["-abcDEF1234"]
    assert comma.qa[0].answer == "Wind blows, then a door shuts"
    assert comma.source_keys == {"youtube": "-abcDEF1234"} and comma.split == "train"


def test_audiocaps_keeps_five_references_in_one_question(tmp_path: Path) -> None:
    clips = built("audiocaps", tmp_path)
    for id, split, word in (("Vvvvvvvvvv1", "val", "caption"), ("Tttttttttt1", "test", "reference")):
        (qa,) = clips[id].qa
        assert clips[id].split == split
        assert qa.answers == tuple(f"{word} {n}" for n in range(5))


def test_an_empty_caption_is_a_bad_annotation(tmp_path: Path) -> None:
    file = fixtures.audiocaps(tmp_path) / "dataset" / "train.csv"
    file.write_bytes(file.read_bytes() + b"17,Ffffffffff1,3\r\n")
    clip = read("audiocaps", tmp_path)["Ffffffffff1"]
    assert clip.state == "bad_annotation" and clip.reason


def test_chime_home_expands_letters_and_reads_both_chunk_folders(tmp_path: Path) -> None:
    clips = built("chime_home", tmp_path)
    both, empty, flagged, test = clips.values()
    assert answers(both)["sources"] == "child speech and adult male speech"
    assert audio_name(both) == "CR_lounge_200110_1601.s0_chunk1.16kHz.wav"
    assert both.source_keys == {"session": "chime-CR_lounge_200110_1601"}
    assert answers(empty) == {"sources": "No clear sound source is audible."}
    assert empty.state == "ok" and audio_name(empty).endswith("_chunk2.48kHz.wav")
    assert flagged.state == "bad_annotation" and "U" in flagged.reason
    assert test.split == "test" and both.split == "train"
    assert answers(test)["sources"] == "video game or TV sound, percussive sound and broadband noise"


def test_chime_home_yes_and_no_are_right(tmp_path: Path) -> None:
    for clip in built("chime_home", tmp_path).values():
        named = answers(clip)["sources"]
        for qa in clip.qa:
            if qa.task == "presence":
                things = [
                    thing
                    for thing in (
                        "child speech",
                        "adult male speech",
                        "adult female speech",
                        "video game or TV sound",
                        "percussive sound",
                        "broadband noise",
                        "other identifiable sound",
                    )
                    if thing in qa.question
                ]
                assert len(things) == 1
                assert qa.answer == ("yes" if things[0] in named else "no")


def test_a_chunk_without_its_table_is_a_bad_annotation(tmp_path: Path) -> None:
    folder = fixtures.chime_home(tmp_path)
    name = "CR_lounge_220110_0731.s8_chunk7"
    (folder / "chunks1" / f"{name}.csv").unlink()
    clip = read("chime_home", tmp_path)[name]
    assert clip.state == "bad_annotation" and f"{name}.csv" in clip.reason


def test_clotho_takes_file_names_as_they_are(tmp_path: Path) -> None:
    clips = built("clotho", tmp_path)
    assert {id: audio_name(clip) for id, clip in clips.items()} == {id: id.split("/")[1] for id in clips}
    assert "development/a, b &amp; c (1).wav" in clips and "development/Rumbling .wav" in clips
    train = clips["development/Some rain 03.wav"]
    assert [qa.answer for qa in train.qa] == [f"Som caption {n}." for n in range(1, 6)]
    assert train.source_keys == {"clotho": "Some rain 03", "freesound": "1000"}
    assert train.meta == {"keywords": "rain;caf\u00e9", "license": "CC0"}
    (qa,) = clips["evaluation/eval #1 @ home.wav"].qa
    assert len(qa.answers) == 5
    assert [clips[id].split for id in clips][-2:] == ["val", "test"]


def test_clotho_tables_may_lie_beside_the_audio_folders_and_without_metadata(tmp_path: Path) -> None:
    folder = fixtures.clotho(tmp_path)
    for path in (folder / "clotho_csv_files").glob("clotho_captions_*"):
        path.rename(folder / path.name)
    shutil.rmtree(folder / "clotho_csv_files")
    for path in (folder / "clotho_audio_files").iterdir():
        path.rename(folder / path.name)
    clips = read("clotho", tmp_path)
    assert len(clips) == 6 and all(clip.state == "ok" for clip in clips.values())
    assert clips["validation/val one.wav"].source_keys == {"clotho": "val one"}


def test_cochlscene_labels_come_from_folders(tmp_path: Path) -> None:
    clips = built("cochlscene", tmp_path)
    crowded = clips["Train/CrowdedIndoor/CrowdedIndoor_user0002_14987655_002.wav"]
    assert answers(crowded) == {"scene": "crowded indoor place", "scene_choice": "crowded indoor place"}
    choice = crowded.qa[1].question
    assert "crowded indoor place" in choice and choice.count(",") == 2 and " or " in choice
    assert crowded.source_keys == {"user": "cochl-0002"}
    assert [clip.split for clip in clips.values()] == ["train", "train", "val", "test", "test"]
    gone = clips["Test/Park/Park_user0005_14987658_001.wav"]
    assert gone.state == "missing" and "Park_user0005" in gone.reason


def test_cochlscene_unknown_scene_is_a_bad_annotation(tmp_path: Path) -> None:
    folder = fixtures.cochlscene(tmp_path)
    fixtures.wav(folder / "Train" / "Moon" / "Moon_user0009_14987650_000.wav")
    clip = read("cochlscene", tmp_path)["Train/Moon/Moon_user0009_14987650_000.wav"]
    assert clip.state == "bad_annotation" and "Moon" in clip.reason


def test_iemocap_labels_speakers_and_whole_sessions(tmp_path: Path) -> None:
    clips = built("iemocap", tmp_path)
    assert len(clips) == 15  # xxx is not one of the classes
    excited = clips["Ses02F_impro01_M000"]
    assert answers(excited) == {"emotion": "happy", "emotion_choice": "happy", "gender": "male"}
    # The F of Ses02F is the actor with the markers, not the speaker.
    assert excited.source_keys["speaker"] == "iemocap-2M"
    assert excited.meta == {"label": "exc", "transcript": "Caf\u00e9, please."}
    splits = {
        session: {c.split for c in clips.values() if c.id.startswith(f"Ses0{session}")} for session in range(1, 6)
    }
    assert splits == {1: {"train"}, 2: {"train"}, 3: {"train"}, 4: {"val"}, 5: {"test"}}
    assert clips["Ses01F_impro01_M001"].state == "missing"
    assert audio_name(clips["Ses01F_impro01_F000"]) == "Ses01F_impro01_F000.wav"


def test_jamendo_qa_matches_composed_and_decomposed_names(tmp_path: Path) -> None:
    clips = built("jamendo_qa", tmp_path)
    assert list(clips) == fixtures.JAMENDO_TRACKS
    cafe = clips["rock_Caf\u00e9"]
    assert audio_name(cafe) == "rock_Cafe\u0301.wav"
    assert [(qa.question, qa.answer) for qa in cafe.qa] == [(f"What is it ({n})?", f"A tune {n}") for n in range(2)]
    splits = [clip.split for clip in clips.values()]
    assert (splits.count("val"), splits.count("test")) == (1, 1)


@pytest.mark.parametrize("shape", ["nested", "mapping", "wrapped", "paths"])
def test_jamendo_qa_reads_every_shape_alike(shape: str, tmp_path: Path) -> None:
    flat = list(built("jamendo_qa", tmp_path / "flat").values())
    pairs = {clip.id: [{"question": qa.question, "answer": qa.answer} for qa in clip.qa] for clip in flat}
    records = {
        "nested": [{"track_id": track, "qa_pairs": qa} for track, qa in pairs.items()],
        "mapping": pairs,
        "wrapped": {"data": [{"audio": track, "qa": qa} for track, qa in pairs.items()]},
        "paths": [{"audio_path": f"x/{track}.wav", **qa} for track, several in pairs.items() for qa in several],
    }[shape]
    fixtures.jamendo_qa(tmp_path / shape, records)
    other = list(read("jamendo_qa", tmp_path / shape).values())
    assert [(clip.id, clip.split, clip.qa) for clip in other] == [(clip.id, clip.split, clip.qa) for clip in flat]


def test_macs_captions_tags_and_locations(tmp_path: Path) -> None:
    clips = built("macs", tmp_path)
    first, second = clips["airport-lisbon-12-345-a"], clips["airport-lisbon-12-346-a"]
    assert first.split == second.split and first.source_keys["location"] == "tau-lisbon-12"
    assert answers(first)["scene"] == "airport"
    # siren: 0.9 of 1.9; adults_talking: 1.0 of 1.9; footsteps: 1.8 of 1.9.
    assert answers(first)["tags"] == "adults talking and footsteps"
    assert clips["park-lyon-4-74-a"].state == "missing"
    assert {clip.split for clip in clips.values()} == set(SPLITS)
    for clip in clips.values():
        captions = [qa for qa in clip.qa if qa.task == "caption"]
        assert len(captions) == (3 if clip.split == "train" else 1)
        assert sum(len(qa.answers) for qa in captions) == 3


def test_macs_without_competences_and_meta_votes_and_reads_names(tmp_path: Path) -> None:
    folder = fixtures.macs(tmp_path)
    (folder / "MACS_competence.csv").unlink()
    shutil.rmtree(folder / "tau_meta")
    clip = read("macs", tmp_path)["airport-lisbon-12-345-a"]
    assert answers(clip)["tags"] == "adults talking and footsteps" and answers(clip)["scene"] == "airport"
    assert clip.source_keys["location"] == "tau-lisbon-12"


def test_macs_broken_yaml_is_named(tmp_path: Path) -> None:
    file = fixtures.macs(tmp_path) / "MACS.yaml"
    for content in ("files: [", "other: 1", "files:\n- filename: a.wav\n"):
        file.write_text(content)
        with pytest.raises(CorpusError, match=r"MACS\.yaml"):
            read("macs", tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_musicnet_windows_ask_only_for_what_plays_in_them(nested: bool, tmp_path: Path) -> None:
    fixtures.musicnet(tmp_path, nested=nested)
    clips = read("musicnet", tmp_path)
    assert list(clips) == ["1727@0s", "1727@10s", "1727@20s", "1800@0s", "1759@0s"]
    windows = {id: (clip.start_s, clip.end_s, answers(clip).get("instrument")) for id, clip in clips.items()}
    assert windows["1727@0s"] == (0.0, 10.0, "piano and violin")
    assert windows["1727@10s"] == (10.0, 20.0, "violin")
    assert windows["1727@20s"] == (20.0, 30.0, "cello")
    first = clips["1727@0s"]
    assert answers(first)["instrument_count"] == "2"
    assert (answers(first)["ensemble"], answers(first)["composer"]) == ("Piano Quintet", "Schubert")
    assert first.source_keys == {"track": "musicnet-1727"} and first.meta["composition"] == "Piano Quintet, in A"
    assert clips["1759@0s"].split == "test" and answers(clips["1759@0s"])["instrument"] == "piano and harpsichord"
    assert clips["1800@0s"].state == "missing"
    for clip in clips.values():
        yes_no = next(qa for qa in clip.qa if qa.task == "presence")
        playing = answers(clip)["instrument"].replace(" and ", ", ").split(", ")
        assert yes_no.answer == (
            "yes" if any(f" {name} " in f" {yes_no.question} ".replace("?", " ") for name in playing) else "no"
        )


def test_musicnet_long_pieces_give_windows_spread_over_them(tmp_path: Path) -> None:
    folder = fixtures.musicnet(tmp_path)
    labels = folder / "musicnet" / "train_labels" / "1727.csv"
    header = ["start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value"]
    fixtures.table(labels, [header, [0, 44_100 * 3600, 1, 60, 0, 1, "Whole"]])
    starts = [clip.start_s for clip in read("musicnet", tmp_path).values() if clip.id.startswith("1727@")]
    assert starts == [300.0 * n for n in range(12)]


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


def test_openaqa_groups_questions_and_filters(tmp_path: Path) -> None:
    clips = built("openaqa", tmp_path)
    speech = clips["-bcDEFghi01"]
    assert [(qa.task, qa.question, qa.answer) for qa in speech.qa] == [
        ("qa_closed", "Which sounds?", "Speech; \u266b music"),
        ("qa_open", "What mood?", "A cheerful one."),
    ]
    assert speech.source_keys == {"youtube": "-bcDEFghi01"} and speech.meta["refusals_left_out"] == 1
    assert audio_name(speech) == "-bcDEFghi01.wav"
    assert clips["Vv_DEFghi02_30"].source_keys == {"youtube": "Vv_DEFghi02"}
    assert clips["12345"].source_keys == {"freesound": "12345"} and len(clips["12345"].qa) == 1
    assert clips["12345"].qa[0].task == "caption"
    assert clips["Ggggggggg03"].state == "missing" and clips["Hhhhhhhhh04"].state == "bad_annotation"
    assert {clip.split for clip in clips.values()} == {"train"}


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("It cannot be determined from the audio clip.", True),
        ("The language can't be identified.", True),
        ("It is impossible to tell who speaks.", True),
        ("The location is not specified in the audio.", True),
        ("A man tells a story.", False),
        ("The dog cannot reach the ball and barks.", False),
    ],
)
def test_openaqa_refusals(answer: str, refuses: bool) -> None:
    assert bool(REFUSALS.search(answer)) is refuses


def test_promptspeech_attributes_and_subsets(tmp_path: Path) -> None:
    clips = built("promptspeech", tmp_path)
    man = clips["1089_134686_000003_000000"]
    assert answers(man) == {
        "style": "A man, speaking loudly and slowly.",
        "gender": "male",
        "pitch": "low",
        "speed": "slow",
        "energy": "high",
    }
    assert man.source_keys == {"libritts": man.id, "speaker": "libritts-1089"}
    assert {clip.id: clip.split for clip in clips.values()}["237_126133_000002_000001"] == "test"
    odd = clips["26_495_000009_000001"]
    assert odd.state == "missing" and set(answers(odd)) == {"style", "gender", "pitch"}


def test_sounddescs_reads_pickles_nested_and_flat_audio(tmp_path: Path) -> None:
    clips = built("sounddescs", tmp_path)
    assert answers(clips["07051146"]) == {"caption": "Door, int. - closes.", "category": "Doors and Interiors"}
    assert answers(clips["nhu05001001"]) == {"caption": "Birds at dawn."}
    assert clips["nhu05001001"].source_keys == {"bbc": "nhu05001001"}
    assert audio_name(clips["07000001"]) == "07000001.wav" and clips["07000001"].split == "val"
    assert clips["07000002"].state == "bad_annotation"


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_sounddescs_refuses_a_pickle_that_runs_code(tmp_path: Path) -> None:
    file = fixtures.sounddescs(tmp_path) / "sounddescs_data" / "descriptions.pkl"
    trap = tmp_path / "was_run"
    file.write_bytes(pickle.dumps({"07051146": _Malicious(trap)}))
    with pytest.raises(CorpusError, match="not allowed") as error:
        read("sounddescs", tmp_path)
    assert error.value.where["file"] == file
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(["a list"])])
def test_sounddescs_refuses_what_is_no_pickled_mapping(content: bytes, tmp_path: Path) -> None:
    file = fixtures.sounddescs(tmp_path) / "sounddescs_data" / "categories.pkl"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=r"categories\.pkl"):
        read("sounddescs", tmp_path)


def test_textrolspeech_turns_paths_into_names(tmp_path: Path) -> None:
    clips = built("textrolspeech", tmp_path)
    found = {id: audio_name(clip) for id, clip in clips.items() if clip.audio}
    assert found["MEAD-M026-audio-surprised-level_1-013"] == "013.wav"
    assert found["RAVDESS-Actor_01-03-01-04-01-01-01-01"] == "03-01-04-01-01-01-01.wav"
    assert any(name == "0020_000746.wav" for name in found.values())
    assert found["CREMA-D-AudioWAV-1060_IWL_FEA_XX"] == "1060_IWL_FEA_XX.wav"
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
    assert mead.source_keys == {"utterance": mead.id}
    assert [clip.split for clip in clips.values()].count("test") == 1


def test_textrolspeech_path_never_leaves_the_corpus(tmp_path: Path) -> None:
    folder = fixtures.textrolspeech(tmp_path)
    outside = fixtures.wav(tmp_path / "outside.wav")
    file = folder / "caption" / "random_test.csv"
    rows = list(csv.reader(file.read_text().splitlines()))
    for number, path in enumerate((str(outside), "../outside.wav")):
        fixtures.table(file, [rows[0], [*rows[1][:1], path, f"MEAD-nobody-{number}", *rows[1][3:]]])
        assert read("textrolspeech", tmp_path)[f"MEAD-nobody-{number}"].state == "missing"


def test_wavcaps_sources_keep_their_ids_apart(tmp_path: Path) -> None:
    clips = built("wavcaps", tmp_path)
    keys = {id: clip.source_keys for id, clip in clips.items()}
    assert keys == {
        "AudioSet_SL/Yb0RFKhbpFJA": {"youtube": "b0RFKhbpFJA"},
        "BBC_Sound_Effects/NHU05001001": {"bbc": "nhu05001001"},
        "FreeSound/77": {"freesound": "77"},
        "FreeSound/78": {"freesound": "78"},
        "SoundBible/77": {"soundbible": "77"},
    }
    for source in ("FreeSound", "SoundBible"):
        path = clips[f"{source}/77"].audio
        assert path is not None and path.parent.name == source
    assert answers(clips["FreeSound/77"]) == {"caption": "A bell \u2013 far."}
    assert clips["FreeSound/78"].state == "missing"


def test_wavcaps_flac_folders(tmp_path: Path) -> None:
    folder = fixtures.wavcaps(tmp_path)
    for path in sorted((folder / "Audio").iterdir()):
        path.rename(folder / f"{path.name}_flac")
    clips = read("wavcaps", tmp_path)
    assert [clip.state for clip in clips.values()].count("ok") == 4


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
