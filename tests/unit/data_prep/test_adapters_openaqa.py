"""OpenAQA: one file of questions about audio that lies wherever its user keeps it."""

from __future__ import annotations

from pathlib import Path

import corpora_large as corpora
import pytest
from corpus_files import dump, text, wav
from reading import audio_name, built, read

from data_prep.adapters.base import Findings
from data_prep.adapters.openaqa import REFUSALS
from pipeline.errors import ConfigError, CorpusError

Row = tuple[str, str, str, str, str]
SPEECH = "audioset/-bcDEFghi01"


def row(path: str, dataset: str, answer: str = "A bell.", task: str = "caption") -> Row:
    return (path, dataset, task, "What is it?", answer)


def corpus(root: Path, rows: list[Row], *audio: str, name: str = "openaqa_5.6M.json", transcript: str = "") -> Path:
    """A corpus of the given rows and audio files."""
    corpora.openaqa_json(root / name, rows, transcript)
    for file in audio:
        wav(root / file)
    return root


def found_audio(root: Path, found: Findings | None = None, **options: str) -> dict[str, str | None]:
    clips = read("openaqa", root, found, **options)
    return {id: clip.audio and clip.audio.relative_to(root).as_posix() for id, clip in clips.items()}


def test_groups_questions_and_filters(tmp_path: Path) -> None:
    found = Findings()
    clips = built("openaqa", tmp_path, found)
    speech = clips[SPEECH]
    assert [(qa.task, qa.question, qa.answer) for qa in speech.qa] == [
        ("qa_closed", "Which sounds?", "Speech; \u266b music"),
        ("qa_open", "What mood?", "A cheerful one."),
    ]
    assert speech.source_keys == {"youtube": "-bcDEFghi01"} and speech.meta["refusals_left_out"] == 1
    assert audio_name(speech) == "-bcDEFghi01.wav"
    assert clips["vggsound/Vv_DEFghi02_30"].source_keys == {"youtube": "Vv_DEFghi02"}
    assert clips["fsd50k/12345"].source_keys == {"freesound": "12345"} and len(clips["fsd50k/12345"].qa) == 1
    assert clips["fsd50k/12345"].qa[0].task == "caption"
    assert clips["audioset/Ggggggggg03"].state == "missing"
    assert clips["audioset/Hhhhhhhhh04"].state == "bad_annotation"
    assert clips["audioset/Hhhhhhhhh04"].reason == "all its answers are refusals"
    assert {clip.split for clip in clips.values()} == {"train"}
    assert found.counts["rows left out"] == {"answer is a refusal": 2, "the same question and answer again": 1}
    assert found.counts["rows by dataset"] == {"as_20k": 3, "vggsound_train": 1, "fsd50k_tr": 2, "as_2m": 2}
    assert found.counts["clips without audio, by folder in the annotation"] == {"/home/as/": 1}
    assert "questions in openaqa_5.6M.json: expected 5681708, found 8" in found.notes


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
def test_refusals(answer: str, refuses: bool) -> None:
    assert bool(REFUSALS.search(answer)) is refuses


def test_refusals_can_be_kept(tmp_path: Path) -> None:
    clips = built("openaqa", tmp_path, refusals="kept")
    assert len(clips[SPEECH].qa) == 3 and clips["audioset/Hhhhhhhhh04"].state == "ok"


@pytest.mark.parametrize(
    ("dataset", "path", "id", "keys"),
    [
        ("audiocaps_train", "/x/-bcDEFghi01.flac", SPEECH, {"youtube": "-bcDEFghi01"}),
        ("as_strong_train", "/x/YbcDEFghi01_30000.flac", "audioset/YbcDEFghi01_30000", {"youtube": "YbcDEFghi01"}),
        ("as_500k", "/x/Y-bcDEFghi01.wav", "audioset/Y-bcDEFghi01", {"youtube": "-bcDEFghi01"}),
        ("freesound_10s", "/x/123.flac", "freesound/123", {"freesound": "123"}),
        ("sound_bible", "/x/123.flac", "soundbible/123", {"soundbible": "123"}),
        ("clotho_development", "/x/Some rain 03.wav", "clotho/Some rain 03", {"clotho": "Some rain 03"}),
        ("libritts", "/x/84_1_000001_000000.wav", "libritts/84_1_000001_000000", {"libritts": "84_1_000001_000000"}),
        ("IEMOCAP", "/x/Ses01F_imp_F000.wav", "iemocap/Ses01F_imp_F000", {"dialogue": "iemocap-Ses01F_imp"}),
        ("mix", "/data/sls/audioset/x/audio/-bcDEFghi01.flac", SPEECH, {"youtube": "-bcDEFghi01"}),
        ("voxceleb", "/x/id1/a/00001.wav", "x/id1/a/00001.wav", {"openaqa": "x/id1/a/00001.wav"}),
    ],
)
def test_ids_and_source_keys_by_part(dataset: str, path: str, id: str, keys: dict[str, str], tmp_path: Path) -> None:
    clips = read("openaqa", corpus(tmp_path, [row(path, dataset)], f"audio/{Path(path).name}"))
    assert list(clips) == [id] and clips[id].source_keys == keys and clips[id].state == "ok"


def test_rows_of_one_recording_from_several_parts_are_one_clip(tmp_path: Path) -> None:
    rows = [row("/a/-bcDEFghi01.flac", "as_20k", "One."), row("/b/-bcDEFghi01.wav", "audiocaps_train", "Two.")]
    clips = read("openaqa", corpus(tmp_path, rows, "-bcDEFghi01.wav"))
    assert [qa.answer for qa in clips[SPEECH].qa] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("dataset", "stem", "file"),
    [
        ("vggsound_train", "-bcDEFghi01_30", "vgg/-bcDEFghi01_000030.wav"),
        ("vggsound_train", "-bcDEFghi01_000030", "vgg/-bcDEFghi01_30.wav"),
        ("vggsound_train", "-bcDEFghi01_30", "vgg/-bcDEFghi01-[30-40].wav"),
        ("as_2m", "-bcDEFghi01", "as/Y-bcDEFghi01.wav"),
        ("as_2m", "Y-bcDEFghi01", "as/-bcDEFghi01.WAV"),
        ("as_2m", "-bcDEFghi01", "x/-bcDEFghi01-[30-40].wav"),
        ("as_2m", "-bcDEFghi01", "x/-bcDEFghi01_30_40.wav"),
        ("as_2m", "-bcDEFghi01", "AudioCaps/train/-bcDEFghi01_30.flac"),
        ("clotho_dev", "Cafe\u0301", "clotho/Caf\u00e9.wav"),
    ],
)
def test_names_of_other_downloaders(dataset: str, stem: str, file: str, tmp_path: Path) -> None:
    corpus(tmp_path, [row(f"/x/{stem}.flac", dataset)], file)
    assert list(found_audio(tmp_path).values()) == [file]


@pytest.mark.parametrize(
    ("dataset", "stem", "files"),
    [
        ("as_2m", "-bcDEFghi01", ["x/-bcDEFghi01_30.wav"]),
        ("as_2m", "-bcDEFghi01", ["x/-bcDEFghi01-[30-40].wav", "x/-bcDEFghi01-[50-60].wav"]),
        ("vggsound_train", "-bcDEFghi01_30", ["x/-bcDEFghi01_000060.wav"]),
    ],
)
def test_another_segment_of_the_video_is_not_taken(dataset: str, stem: str, files: list[str], tmp_path: Path) -> None:
    corpus(tmp_path, [row(f"/x/{stem}.flac", dataset)], *files)
    assert [clip.state for clip in read("openaqa", tmp_path).values()] == ["missing"]


def test_a_number_of_two_collections_is_only_taken_from_their_folders(tmp_path: Path) -> None:
    rows = [
        row("/d/fs10s/77.flac", "freesound_10s"),
        row("/d/sb/77.flac", "sound_bible"),
        row("/d/f/9.wav", "fsd50k_tr"),
    ]
    corpus(tmp_path, rows, "a/Sound-Bible/77.flac", "a/other/77.flac", "a/9.flac")
    found = Findings()
    assert found_audio(tmp_path, found) == {
        "freesound/77": None,
        "soundbible/77": "a/Sound-Bible/77.flac",
        "fsd50k/9": "a/9.flac",
    }
    assert found.counts["audio name"]["stem of several recordings, none told apart"] == 1


def test_paths_tell_recordings_apart_whose_files_are_called_alike(tmp_path: Path) -> None:
    rows = [row(f"/data/voxceleb/{speaker}/v/00001.wav", "voxceleb") for speaker in ("id1", "id2", "id3")]
    corpus(tmp_path, rows, "vox/id1/v/00001.wav", "vox/id2/v/00001.flac")
    audio = list(found_audio(tmp_path).values())
    assert audio == ["vox/id1/v/00001.wav", "vox/id2/v/00001.flac", None]


def test_toy_set_with_relative_paths_and_litter_in_a_zip(tmp_path: Path) -> None:
    rows = [row("../../../openaqa/data/sample_audio/audio/-bcDEFghi01.flac", "as_20k")]
    rows += [row("audio/id1/00001.wav", "voxceleb"), row("audio/id2/00001.wav", "voxceleb")]
    corpus(tmp_path, rows, "audio/id1/00001.wav", "audio/id2/00001.flac", name="openaqa_toy_relative.json")
    corpora.pack(tmp_path / "sample.zip", {"audio/-bcDEFghi01.flac": wav(tmp_path / "-bcDEFghi01.flac")})
    assert list(found_audio(tmp_path).values()) == [
        "sample.zip!/audio/-bcDEFghi01.flac",
        "audio/id1/00001.wav",
        "audio/id2/00001.flac",
    ]


def test_transcripts_of_openasqa_are_kept_out_of_the_question(tmp_path: Path) -> None:
    rows = [("/x/84_1_000001_000000.flac", "libritts", "ASR", "What is said?", "Hello.")]
    corpus(tmp_path, rows, "84_1_000001_000000.flac", name="openasqa_toy.json", transcript=" Hello there. ")
    found = Findings()
    clip = read("openaqa", tmp_path, found)["libritts/84_1_000001_000000"]
    assert clip.meta["transcript"] == "Hello there."
    assert [(qa.task, qa.question) for qa in clip.qa] == [("transcript", "What is said?")]
    assert found.counts["transcripts"].total() == 1


def test_one_of_several_files_by_name(tmp_path: Path) -> None:
    corpus(tmp_path, [row("/x/-bcDEFghi01.flac", "as_20k")], "-bcDEFghi01.wav")
    corpus(tmp_path, [row("/x/1.flac", "fsd50k_tr")], name="all_open_qa.json")
    assert list(read("openaqa", tmp_path)) == [SPEECH]
    assert list(read("openaqa", tmp_path, file="all_open_qa.json")) == ["fsd50k/1"]
    with pytest.raises(CorpusError, match=r"gone\.json"):
        read("openaqa", tmp_path, file="gone.json")


EVAL_ROWS = [
    row("/x/-bcDEFghi01.flac", "as_2m"),
    row("/x/-bcDEFghi01.flac", "audiocaps_val"),
    row("/v/-bcDEFghi01_30.flac", "vggsound_train"),
    row("/c/Rain.wav", "clotho_validation"),
    row("/c/Wind.wav", "clotho_development"),
]
EVAL_AUDIO = ("-bcDEFghi01.wav", "-bcDEFghi01_30.wav", "Rain.wav", "Wind.wav")


def test_held_out_parts_are_never_trained_on(tmp_path: Path) -> None:
    corpus(tmp_path, EVAL_ROWS, *EVAL_AUDIO)
    found = Findings()
    clips = read("openaqa", tmp_path, found)
    assert {id: clip.state for id, clip in clips.items()} == {
        SPEECH: "blacklisted",
        "vggsound/-bcDEFghi01_30": "blacklisted",
        "clotho/Rain": "blacklisted",
        "clotho/Wind": "ok",
    }
    assert clips["vggsound/-bcDEFghi01_30"].reason == "audiocaps_val holds it, which is no training part"
    assert any("audiocaps_val, clotho_validation" in note for note in found.notes)


def test_recordings_of_a_held_out_part_stay_out_when_the_part_itself_is_not_taken(tmp_path: Path) -> None:
    clips = read("openaqa", corpus(tmp_path, EVAL_ROWS, *EVAL_AUDIO), datasets="-*_val,-clotho*")
    assert {id: clip.state for id, clip in clips.items()} == {
        SPEECH: "blacklisted",
        "vggsound/-bcDEFghi01_30": "blacklisted",
    }


def test_held_out_parts_can_be_left_out_wholly(tmp_path: Path) -> None:
    corpus(tmp_path, EVAL_ROWS, *EVAL_AUDIO)
    found = Findings()
    assert list(read("openaqa", tmp_path, found, eval_parts="left_out")) == ["clotho/Wind"]
    assert "clips of validation and test parts, left out: 3" in found.notes


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        ("as_*", [SPEECH, "audioset/Ggggggggg03", "audioset/Hhhhhhhhh04"]),
        ("-as_2m,-fsd50k*", [SPEECH, "vggsound/Vv_DEFghi02_30"]),
        ("as_*,-as_20k", ["audioset/Ggggggggg03", "audioset/Hhhhhhhhh04"]),
    ],
)
def test_some_parts_only(chosen: str, taken: list[str], tmp_path: Path) -> None:
    found = Findings()
    assert list(built("openaqa", tmp_path, found, datasets=chosen)) == taken
    assert any(note.startswith("left out by the option datasets: ") for note in found.notes)


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        built("openaqa", tmp_path, datasets="as_2m,clotho_dev")
    assert error.value.got == "clotho_dev" and "vggsound_train" in str(error.value.expected)


MAPPED_ROWS = [
    row("/data/sls/audioset/x/-bcDEFghi01.flac", "as_2m"),
    row("/data/vox/id1/00001.wav", "voxceleb"),
    row("/data/vox/id2/00001.wav", "voxceleb"),
    row("/data/other/9.wav", "fsd50k_tr"),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.yaml", "# mine\n^/data/sls/audioset/: ../mine/as\n'/data/vox/(?=id)': ../mine/vox\n"),
        ("map.csv", "\ufeffpattern,folder\r\n^/data/sls/audioset/,../mine/as\r\n\r\n/data/vox/(?=id),../mine/vox\r\n"),
    ],
)
def test_path_map(name: str, content: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path / "openaqa", MAPPED_ROWS, "-bcDEFghi01.wav", "9.wav")
    mine = [wav(tmp_path / "mine" / path) for path in ("as/-bcDEFghi01.flac", "vox/id1/00001.wav", "vox/id2/00001.mp3")]
    found = Findings()
    clips = read("openaqa", tmp_path, found, path_map=str(text(tmp_path / "maps" / name, content)))
    assert [clip.audio and clip.audio.resolve() for clip in clips.values()] == [*mine, folder / "9.wav"]
    assert found.counts["path map"] == {"^/data/sls/audioset/": 1, "/data/vox/(?=id)": 2, "no rule matched": 1}


def test_a_path_map_needs_no_audio_below_the_corpus(tmp_path: Path) -> None:
    corpus(tmp_path / "openaqa", MAPPED_ROWS[:1])
    wav(tmp_path / "as" / "-bcDEFghi01.flac")
    file = text(tmp_path / "map.yaml", f"/data/sls/: {tmp_path / 'as'}\n")
    assert [clip.state for clip in read("openaqa", tmp_path / "openaqa", path_map=str(file)).values()] == ["ok"]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("map.yaml", "/a/: .\n'/b(': .\n", 2, "pattern"),
        ("map.yaml", "/a/: .\n/b/: nowhere\n", 2, "not there"),
        ("map.yaml", "/a/: .\n/b/: [x]\n", 2, "another form"),
        ("map.yaml", "/a/: .\n/b/: 'x\n", 3, "YAML"),
        ("map.yaml", "- /a/\n", 1, "another form"),
        ("map.csv", "/a/,.\n/b/\n", 2, "another form"),
        ("map.csv", "regex,folder\n/a/,.\n[,.\n", 3, "pattern"),
    ],
)
def test_a_wrong_path_map_is_named_with_its_line(
    name: str, content: str, line: int, message: str, tmp_path: Path
) -> None:
    corpora.openaqa(tmp_path)
    file = text(tmp_path / name, content)
    with pytest.raises(ConfigError, match=message) as error:
        read("openaqa", tmp_path, path_map=str(file))
    assert error.value.where == {"file": file, "line": line}


def test_folders_without_audio_are_reported_up_to_twenty(tmp_path: Path) -> None:
    rows = [row(f"/data/{number:02d}/{number}{letter}.wav", "fsd50k_tr") for number in range(23) for letter in "ab"]
    corpus(tmp_path, [*rows, row("/data/05/extra.wav", "fsd50k_tr")], "x.wav")
    found = Findings()
    read("openaqa", tmp_path, found)
    prefixes = found.counts["clips without audio, by folder in the annotation"]
    assert len(prefixes) == 20 and prefixes.most_common(1) == [("/data/05/", 3)]
    assert "clips without audio are of 3 more folders" in found.notes


def test_a_missing_key_is_named_with_its_place(tmp_path: Path) -> None:
    file = corpora.openaqa(tmp_path) / "openaqa_5.6M.json"
    dump(file, [{"instruction": "a", "output": "b"}])
    with pytest.raises(CorpusError) as error:
        read("openaqa", tmp_path)
    assert error.value.where == {"file": file, "byte": 3, "key": "audio_id, dataset, task"}


def test_the_comments_of_the_readme_are_explained(tmp_path: Path) -> None:
    file = corpora.openaqa(tmp_path) / "openaqa_5.6M.json"
    file.write_text('[\n {\n  "instruction": "What?", % the question\n  "input": ""\n }\n]')
    with pytest.raises(CorpusError) as error:
        read("openaqa", tmp_path)
    assert error.value.hint is not None and "no comments" in error.value.hint
    assert error.value.where["byte"] == file.read_text().index("%")
