"""Adapters of Jamendo-QA and MusicNet: tiny copies in their public layouts, with the defects that real ones have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import corpora_voices as corpora
import pytest
import soundfile
from corpus_files import dump, litter, table, text, wav
from reading import answers, audio_name, built, read

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from data_prep.adapters.jamendo_qa import ABOUT_WHOLE
from pipeline.errors import ConfigError, CorpusError

NOTE_COLUMNS = ["start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value"]
RATE_HZ = 44_100


# Jamendo-QA


def test_jamendo_qa_matches_composed_and_decomposed_names(tmp_path: Path) -> None:
    found = Findings()
    clips = built("jamendo_qa", tmp_path, found)
    assert list(clips) == corpora.JAMENDO_TRACKS
    cafe = clips["rock_Caf\u00e9"]
    assert audio_name(cafe) == "rock_Cafe\u0301.wav"
    assert [(qa.question, qa.answer) for qa in cafe.qa] == [(f"What is it ({n})?", f"A tune {n}") for n in range(2)]
    splits = [clip.split for clip in clips.values()]
    assert (splits.count("val"), splits.count("test")) == (1, 1)
    assert cafe.source_keys == {"track": "jamendo-rock_Caf\u00e9"}
    assert found.notes == ["tracks: expected 7335, found 10", "questions: expected 58680, found 20"]


SHAPES = ["nested", "one pair", "mapping", "mapping to records", "wrapped", "wrapped mapping", "paths", "decomposed"]


@pytest.mark.parametrize("shape", SHAPES)
def test_jamendo_qa_reads_every_shape_alike(shape: str, tmp_path: Path) -> None:
    flat = list(built("jamendo_qa", tmp_path / "flat").values())
    pairs = {clip.id: [{"question": qa.question, "answer": qa.answer} for qa in clip.qa] for clip in flat}
    records: Any = {
        "nested": [{"track_id": track, "qa_pairs": qa} for track, qa in pairs.items()],
        "one pair": [{"track_id": track, "qa": pair} for track, several in pairs.items() for pair in several],
        "mapping": pairs,
        "mapping to records": {track: {"title": "x", "qa_pairs": qa} for track, qa in pairs.items()},
        "wrapped": {"data": [{"audio": track, "qa": qa} for track, qa in pairs.items()]},
        "wrapped mapping": {"version": 2, "data": pairs},
        "paths": [{"audio_path": f"x/{track}.wav", **qa} for track, several in pairs.items() for qa in several],
        "decomposed": {track.replace("\u00e9", "e\u0301"): qa for track, qa in pairs.items()},
    }[shape]
    corpora.jamendo_qa(tmp_path / shape, records)
    other = list(read("jamendo_qa", tmp_path / shape).values())
    assert [(clip.id, clip.split, clip.qa) for clip in other] == [(clip.id, clip.split, clip.qa) for clip in flat]


@pytest.mark.parametrize("name", ["train.jsonl", "jamendo.jsonl.gz"])
def test_jamendo_qa_reads_lines_of_fullspectrum(name: str, tmp_path: Path) -> None:
    whole = list(built("jamendo_qa", tmp_path / "whole").values())
    corpora.jamendo_lines(tmp_path / "lines", name=name)
    lines = list(read("jamendo_qa", tmp_path / "lines").values())
    assert [(clip.id, clip.split, clip.qa) for clip in lines] == [(clip.id, clip.split, clip.qa) for clip in whole]
    assert {clip.state for clip in lines} == {"ok"}


def test_lines_of_another_dataset_are_not_jamendo_qa(tmp_path: Path) -> None:
    folder = corpora.jamendo_lines(tmp_path, dataset="Clotho")
    assert ADAPTERS["jamendo_qa"].find(tmp_path) is None
    (folder / "train.jsonl").rename(folder / "jamendo.jsonl")
    assert ADAPTERS["jamendo_qa"].find(tmp_path) == folder


def test_a_cut_packed_file_is_named_with_its_line(tmp_path: Path) -> None:
    folder = corpora.jamendo_lines(tmp_path, name="jamendo.jsonl.gz")
    file = folder / "jamendo.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(CorpusError) as error:
        read("jamendo_qa", tmp_path)
    assert error.value.where["file"] == file and error.value.hint


@pytest.mark.parametrize("questions", ["qa_v2.json", "questions/qa_v2.json"])
def test_jamendo_qa_questions_may_lie_at_the_top(questions: str, tmp_path: Path) -> None:
    corpora.jamendo_qa(tmp_path, questions=questions)
    found = Findings()
    assert len(read("jamendo_qa", tmp_path, found)) == 10
    assert found.facts["questions"] == questions


def test_questions_about_two_tracks_are_left_out_and_counted(tmp_path: Path) -> None:
    pair = {"pair_id": 1, "audio1": "a", "audio2": "b", "qa_type": "yes_no", "question": "Same?", "answer": "yes"}
    folder = corpora.jamendo_qa(tmp_path, [*corpora.jamendo_records(), pair])
    nested = {"pair_id": 2, "track1": "a", "track2": "b", "qa_pairs": [{"question": "?", "answer": "!"}] * 3}
    dump(folder / "data" / "questions" / "multi_qa.json", {"data": [pair, nested]})
    found = Findings()
    assert sum(len(clip.qa) for clip in read("jamendo_qa", tmp_path, found).values()) == 20
    assert found.counts["question"]["about two tracks, left out"] == 1
    assert "multi_qa.json is left out: 4 questions about two tracks at once" in found.notes
    text(folder / "data" / "questions" / "multi_qa.json", "<html>")
    assert len(read("jamendo_qa", tmp_path, found)) == 10


def test_repeated_and_blank_questions_are_counted(tmp_path: Path) -> None:
    records = corpora.jamendo_records()
    track = records[0]["track_id"]
    more = [{"track_id": track, "question": "Key?", "answer": None}, {"track_id": track, "question": "1?", "answer": 2}]
    corpora.jamendo_qa(tmp_path, [*records, records[0], *more])
    found = Findings()
    clip = read("jamendo_qa", tmp_path, found)[track]
    assert [qa.answer for qa in clip.qa] == ["A tune 0", "A tune 1", "2"]
    assert found.counts["question"]["repeated, left out"] == found.counts["question"]["blank, left out"] == 1


WHOLE = [
    ("How long is the track?", "Four minutes"),
    ("What is its duration?", "205 s"),
    ("Describe it.", "A track of 3:25 with drums"),
    ("Describe it.", "It lasts long"),
    ("How does the piece begin?", "It opens with a solo piano."),
    ("What happens in the outro?", "Drums"),
    ("What is the structure?", "Verse and chorus"),
]
PART = [
    ("What is the tempo?", "A fast 120 BPM"),
    ("Is there a string section?", "Yes, in C minor"),
    ("Which mood?", "An endless open sound, a second voice"),
]


def test_what_counts_as_about_the_whole() -> None:
    assert [pair for pair in WHOLE if not ABOUT_WHOLE.search(" ".join(pair))] == []
    assert [pair for pair in PART if ABOUT_WHOLE.search(" ".join(pair))] == []


@pytest.mark.parametrize(
    ("stated_s", "window_s", "is_kept"),
    [
        (None, "1", True),  # the file has 0.2 s, by its header
        (None, "0.1", False),
        (205.0, "30", False),  # what the annotation states goes before the header
        (20.0, "30", True),
        (205.0, "0", True),
    ],
)
def test_questions_about_the_whole_go_when_the_track_is_cut(
    stated_s: float | None, window_s: str, is_kept: bool, tmp_path: Path
) -> None:
    pairs = [{"question": question, "answer": answer} for question, answer in (*WHOLE, *PART)]
    track = corpora.JAMENDO_TRACKS[0]
    corpora.jamendo_qa(tmp_path, [{"track_id": track, "duration": stated_s, "qa_pairs": pairs}])
    found = Findings()
    clip = read("jamendo_qa", tmp_path, found, window_s=window_s)[track]
    assert clip.state == "ok"
    tasks = [qa.task for qa in clip.qa]
    assert tasks == ["qa_whole"] * len(WHOLE) * is_kept + ["qa_open"] * len(PART)
    left_out = found.counts["question"]["about the whole of a longer track, left out"]
    assert left_out == (0 if is_kept else len(WHOLE))


def test_a_track_of_which_no_question_is_left_says_why(tmp_path: Path) -> None:
    track = corpora.JAMENDO_TRACKS[0]
    question = {"track_id": track, "question": "How long is it?", "answer": "Long"}
    corpora.jamendo_qa(tmp_path, [question])
    clip = read("jamendo_qa", tmp_path, window_s="0.01")[track]
    assert clip.state == "bad_annotation" and "about the whole" in clip.reason


def test_jamendo_qa_audio_inside_parquet_files(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = corpora.jamendo_qa(tmp_path, questions="qa_v2.json")
    paths, contents = [], []
    for file in sorted((folder / "data" / "audio").glob("[!.]*.wav")):
        paths.append(f"/home/authors/audio/{file.name}")
        contents.append(file.read_bytes())
        file.unlink()
    rows = arrow.table({"audio_path": paths, "audio_bytes": arrow.array(contents, arrow.binary())})
    parquet.write_table(rows, folder / "data" / "train-00000-of-00001.parquet")
    clips = read("jamendo_qa", tmp_path)
    assert {clip.state for clip in clips.values()} == {"ok"}
    audio = clips["rock_Caf\u00e9"].audio
    assert audio is not None and "train-00000-of-00001.parquet!" in audio.parts
    from data_prep.archives.sources import open_source

    with open_source(audio) as content:
        assert soundfile.info(io.BytesIO(content.read())).frames == round(0.2 * 16_000)


# MusicNet


@pytest.mark.parametrize("nested", [False, True])
def test_musicnet_windows_ask_only_for_what_plays_in_them(nested: bool, tmp_path: Path) -> None:
    corpora.musicnet(tmp_path, nested=nested)
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


def notes(folder: Path, piece: int, *rows: list[object], split: str = "train") -> None:
    """Other notes for a piece: start and end in seconds, instrument."""
    file = folder / "musicnet" / f"{split}_labels" / f"{piece}.csv"
    in_samples = ([round(float(str(a)) * RATE_HZ), round(float(str(b)) * RATE_HZ), code] for a, b, code in rows)
    table(file, [NOTE_COLUMNS, *([*row, 60, 0, 1, "Whole"] for row in in_samples)])


def test_musicnet_long_pieces_give_windows_spread_over_them(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    notes(folder, 1727, [0, 3600, 1])

    def starts(**options: str) -> list[float | None]:
        clips = read("musicnet", tmp_path, **options).values()
        return [clip.start_s for clip in clips if clip.id.startswith("1727@")]

    assert starts() == [300.0 * n for n in range(12)]
    assert starts(max_windows="2") == [0.0, 1800.0]
    assert starts(max_windows="3", window_s="30") == [0.0, 1200.0, 2400.0]


def test_musicnet_windows_may_have_another_length(tmp_path: Path) -> None:
    corpora.musicnet(tmp_path)
    clips = read("musicnet", tmp_path, window_s="15")
    assert [id for id in clips if id.startswith("1727@")] == ["1727@0s", "1727@15s"]
    assert (clips["1727@15s"].start_s, clips["1727@15s"].end_s) == (15.0, 30.0)
    assert answers(clips["1727@15s"])["instrument"] == "cello"


@pytest.mark.parametrize(("option", "value"), [("window_s", "0"), ("max_windows", "0"), ("window", "10")])
def test_musicnet_options_out_of_range_are_named(option: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        ADAPTERS["musicnet"].with_options({option: value})
    assert error.value.where == {"option": f"musicnet.{option}"}


def test_musicnet_tail_of_a_note_does_not_make_an_instrument_audible(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    # The violin ends 50 ms into the second window; the flute's whole note of 50 ms lies in it.
    notes(folder, 1727, [0, 20, 1], [0, 10.05, 41], [12, 12.05, 74])
    clips = read("musicnet", tmp_path)
    assert answers(clips["1727@0s"])["instrument"] == "piano and violin"
    assert answers(clips["1727@10s"])["instrument"] == "piano and flute"


def test_musicnet_windows_with_an_unknown_instrument_are_left_out(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    notes(folder, 1727, [0, 30, 1], [12, 14, 25])
    notes(folder, 1759, [0, 10, 0], split="test")
    found = Findings()
    clips = read("musicnet", tmp_path, found)
    assert [id for id in clips if id.startswith("1727@")] == ["1727@0s", "1727@20s"]
    assert clips["1759@0s"].state == "bad_annotation" and "1759.csv" in clips["1759@0s"].reason
    assert found.counts["instrument code"] == {"unknown 25": 1, "unknown 0": 1}
    assert any("unknown code" in note for note in found.notes)


def test_musicnet_notes_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    file = corpora.musicnet(tmp_path) / "musicnet" / "train_labels" / "1727.csv"
    text(file, file.read_text().replace("\n", "\r\n") + "x,y,1,60,0,1,Whole\r\n")
    found = Findings()
    assert answers(read("musicnet", tmp_path, found)["1727@20s"])["instrument"] == "cello"
    assert found.counts["note"]["not a number, left out"] == 1


def test_musicnet_pieces_without_labels_or_metadata(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    wav(folder / "musicnet" / "train_data" / "2000.wav")
    notes(folder, 2001, [0, 10, 41])
    litter(wav(folder / "musicnet" / "train_data" / "2001.WAV"))
    found = Findings()
    clips = read("musicnet", tmp_path, found)
    assert (clips["2000@0s"].state, clips["2000@0s"].reason) == ("bad_annotation", "the piece has no label file")
    assert clips["2001@0s"].state == "ok"
    assert {"composer", "ensemble"}.isdisjoint(answers(clips["2001@0s"]))
    assert found.counts["piece"]["without metadata: composer and ensemble are not asked"] == 2
    assert "train pieces: expected 320, found 4" in found.notes
    assert "test pieces: expected 10, found 1" in found.notes


def test_musicnet_test_pieces_in_the_wrong_folder_are_named(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    notes(folder, 1819, [0, 10, 41])
    wav(folder / "musicnet" / "train_data" / "1819.wav")
    found = Findings()
    read("musicnet", tmp_path, found)
    assert "the folder train_data differs from the published split in 1819" in found.notes


def test_musicnet_without_its_metadata_is_found_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = corpora.musicnet(tmp_path)
    (folder / "musicnet_metadata.csv").unlink()
    with pytest.raises(CorpusError) as error:
        read("musicnet", tmp_path)
    assert error.value.where["looked for"] == "musicnet_metadata.csv"
    assert str(error.value.where["below"]).startswith(str(folder))
