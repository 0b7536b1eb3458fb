"""Tiny voice and music corpora in exactly their public layouts, with the known traps of each in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from corpus_files import dump, litter, table, text, wav


def iemocap(root: Path) -> Path:
    """Five sessions, Latin-1 text, macOS litter, sub-folders, a label that is not used, one wav gone.

    The third session was re-saved on Windows: line ends CRLF, a byte order mark, upper-case suffixes.
    """
    folder = root / "IEMOCAP_full_release"
    for session in range(1, 6):
        dialog = f"Ses0{session}F_impro01"
        labels = {"F000": "neu", "M000": "exc", "F001": "xxx", "M001": "ang"}
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        said = []
        for number, (turn, label) in enumerate(labels.items()):
            utterance = f"{dialog}_{turn}"
            lines += [
                f"[{number}.2901 - {number}.9000]\t{utterance}\t{label}\t[2.5000, 2.5000, 2.5000]",
                "C-E2:\tNeutral;\t()",
                "A-E3:\tval 3; act 2; dom  2;\t()",
                "",
            ]
            said.append(f"{utterance} [00{number}.2901-00{number}.9000]: Caf\u00e9, please.")
            if not (session == 1 and turn == "M001"):
                suffix = "WAV" if session == 3 else "wav"
                wav(folder / f"Session{session}" / "sentences" / "wav" / dialog / f"{utterance}.{suffix}")
        said.append(f"{dialog}_MXX0 [009.1000-009.2000]: Mmhm.")
        place = folder / f"Session{session}" / "dialog"
        lines += [f"[9.1000 - 9.2000]\t{dialog}_MXX0\tneu\t[2.5000, 2.5000, 2.5000]", "C-E2:\tNeutral;\t()"]
        mark, line_end = ("\u00ef\u00bb\u00bf", "\r\n") if session == 3 else ("", "\n")
        text(place / "EmoEvaluation" / f"{dialog}.txt", mark + line_end.join(lines), "latin-1")
        litter(place / "EmoEvaluation" / f"{dialog}.txt")
        text(place / "EmoEvaluation" / "Categorical" / f"{dialog}_e2_cat.txt", "not this one")
        spelling = "Transcriptions" if session == 2 else "transcriptions"
        text(place / spelling / f"{dialog}.txt", mark + line_end.join(said), "latin-1")
        text(folder / f"Session{session}" / "sentences" / "wav" / dialog / f"{dialog}.pk", "not audio")
        text(folder / "__MACOSX" / f"Session{session}" / "dialog" / "EmoEvaluation" / f"{dialog}.txt", "not this one")
        litter(folder / f"Session{session}" / "sentences" / "wav" / dialog / f"{dialog}_F000.wav")
    return folder


JAMENDO_TRACKS = ["rock_Caf\u00e9", "pop_\u041f\u0435\u0441\u043d\u044f", *(f"jazz_Tune{n}" for n in range(8))]


def jamendo_records() -> list[dict[str, str]]:
    return [
        {"track_id": track, "question": f" What is it ({n})?", "answer": f"A tune {n} "}
        for track in JAMENDO_TRACKS
        for n in range(2)
    ]


def jamendo_qa(root: Path, records: Any = None, *, questions: str = "data/questions/qa_v2.json") -> Path:
    """Ids with letters beyond ASCII, one of them decomposed on disk; `records` gives the JSON another shape."""
    folder = root / "jamendo_qa"
    dump(folder / questions, jamendo_records() if records is None else records)
    for track in JAMENDO_TRACKS:
        litter(wav(folder / "data" / "audio" / f"{track.replace(chr(0xE9), 'e' + chr(0x301))}.wav"))
    return folder


def jamendo_lines(root: Path, *, name: str = "train.jsonl", dataset: str = "JamendoQA") -> Path:
    """The same questions as lines of FullSpectrum, with CRLF and a byte order mark; packed when the name says so."""
    folder = jamendo_qa(root)
    (folder / "data" / "questions" / "qa_v2.json").unlink()
    lines = [
        {
            "id": f"{record['track_id']}_Q{n % 2}",
            "path": f"/data/x/{record['track_id']}.wav",
            "sampling_rate": 16_000,
            "duration": 205.69,
            "dataset": dataset,
            "question": record["question"],
            "answer": record["answer"],
        }
        for n, record in enumerate(jamendo_records())
    ]
    content = ("\ufeff" + "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)).encode()
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return folder


def musicnet(root: Path, *, nested: bool = False) -> Path:
    """Note tables in samples at 44.1 kHz, a comma in a title, litter; optionally one level deeper as on Kaggle."""
    folder = root / "musicnet_release"
    inner = folder / "musicnet" / "musicnet" if nested else folder / "musicnet"
    header = [
        "id",
        "composer",
        "composition",
        "movement",
        "ensemble",
        "source",
        "transcriber",
        "catalog_name",
        "seconds",
    ]
    about = [
        [1727, "Schubert", "Piano Quintet, in A", "2. Andante", "Piano Quintet", "EA", "x", "OP114", 35],
        [1759, "Bach", "Fugue", "1.", "Solo Piano", "EA", "x", "BWV", 12],
        [1800, "Haydn", "Lost", "1.", "String Quartet", "EA", "x", "H1", 30],
    ]
    table(folder / "musicnet_metadata.csv", [header, *about])
    rate = 44_100
    notes = {
        ("train", 1727): [[0, 9 * rate, 1], [5 * rate, 12 * rate, 41], [25 * rate, 35 * rate, 43]],
        ("train", 1800): [[0, 30 * rate, 41]],
        ("test", 1759): [[0, 5 * rate, 1], [6 * rate, 8 * rate, 7]],
    }
    for (split, piece), rows in notes.items():
        columns = ["start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value"]
        table(inner / f"{split}_labels" / f"{piece}.csv", [columns, *([*row, 60, 0.0, 1.0, "Quarter"] for row in rows)])
        if piece != 1800:
            litter(wav(inner / f"{split}_data" / f"{piece}.wav"))
    litter(inner / "train_labels" / "1727.csv")
    return folder


PROMPT_COLUMNS = ["item_name", "spk_id", "gender", "pitch", "speaking_speed", "energy", "style_prompt"]


def promptspeech(root: Path) -> Path:
    """A table with BOM, train and test, audio by speaker and chapter in two subsets, one utterance gone."""
    folder = root / "promptspeech"
    train = [
        ["1089_134686_000003_000000", 1089, "M", "low", "slow", "high", "A man, speaking loudly and slowly."],
        ["26_495_000004_000000", 26, "F", "normal", "fast", "normal", "Say it fast please"],
        ["26_495_000009_000001", 26, "F", "high", "odd", "", "She whispers"],
    ]
    test = [["237_126133_000002_000001", 237, "F", "high", "normal", "low", "A soft voice"]]
    table(folder / "Real_training.csv", [PROMPT_COLUMNS, *train], encoding="utf-8-sig")
    table(folder / "Real_test.csv", [PROMPT_COLUMNS, *test])
    libritts = folder / "LibriTTS"
    wav(libritts / "train-clean-100" / "1089" / "134686" / "1089_134686_000003_000000.wav")
    wav(libritts / "train-other-500" / "26" / "495" / "26_495_000004_000000.wav")
    wav(libritts / "test-clean" / "237" / "126133" / "237_126133_000002_000001.wav")
    return folder


ESD = "Emotional Speech Dataset (ESD)/Emotion Speech Dataset/0020/Happy/0020_000746"
# Item names of ControlSpeech's tables, with the speaker that each tells, and a path that the clip may lie at.
CONTROLSPEECH_CLIPS = {
    "26_495_000004_000000": ("libritts-26", "LibriTTS/train-other-500/26/495/26_495_000004_000000.wav"),
    "p225_001": ("vctk-p225", "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac"),
    ESD.replace("/", "-"): ("esd-0020", f"emotion_dataset/{ESD}.wav"),
    "MESS compressed-CM3T07_SCR": ("mess-M3", "emotion_dataset/MESScompressed/CM3T07_SCR.wav"),
    "TESS-TESS Toronto emotional speech set data-YAF_sad-YAF_chief_sad": (
        "tess-YAF",
        "emotion_dataset/TESS/TESS Toronto emotional speech set data/YAF_sad/YAF_chief_sad.wav",
    ),
    "SAVEE-ALL-DC_d08": ("savee-DC", "emotion_dataset/SAVEE/ALL/DC_d08.wav"),
    "RAVDESS-Actor_01-03-01-04-01-01-01-01": (
        "ravdess-01",
        "emotion_dataset/RAVDESS/Actor_01/03-01-04-01-01-01-01.wav",
    ),
    "CREMA-D-AudioWAV-1060_IWL_FEA_XX": ("crema-d-1060", ""),
}
CONTROLSPEECH_COLUMNS = ["item_name", "dur", "pitch", "energy", "gender", "emotion", "spk", "txt", "style_prompt"]
_PACE = {"low": "slowly", "normal": "evenly", "high": "rapidly"}


def controlspeech(root: Path, *, contradictory: bool = False) -> Path:
    """ControlSpeech's tables: `dur` for tempo, emotions `nan` and `None`, prompts with commas; CREMA-D is not there."""
    folder = root / "controlspeech"
    pace = {"low": "rapidly", "normal": "evenly", "high": "slowly"} if contradictory else _PACE
    rows = []
    for n, item in enumerate(CONTROLSPEECH_CLIPS):
        speed = ("low", "normal", "high")[n % 3]
        emotion = {0: "nan", 1: "None"}.get(n, "disgusted")
        prompt = f"With a low pitch, the speaker talks {pace[speed]}, number {n}."
        rows.append([item, speed, "low", "normal", "F", emotion, "x", "Some words.", prompt])
        if CONTROLSPEECH_CLIPS[item][1]:
            wav(folder / CONTROLSPEECH_CLIPS[item][1])
    tables = {"train": rows[:5], "test": rows[5:7], "test_undomain_timbre": rows[7:], "test_prompt": rows[:2]}
    for name, part in tables.items():
        table(folder / "VccmDataset" / f"controlspeech_{name}.csv", [CONTROLSPEECH_COLUMNS, *part])
    return folder


def textrolspeech(root: Path) -> Path:
    """LibriTTS ids, hyphenated paths (RAVDESS with hyphens of its own, folders with blanks), emotion `nan`."""
    folder = root / "textrolspeech"
    files = {
        "1089_134686_000003_000000": "libritts/train-clean-100/1089/134686/1089_134686_000003_000000.wav",
        "MEAD-M026-audio-surprised-level_1-013": "emotion_dataset/MEAD/M026/audio/surprised/level_1/013.wav",
        "RAVDESS-Actor_01-03-01-04-01-01-01-01": "emotion_dataset/RAVDESS/Actor_01/03-01-04-01-01-01-01.wav",
        ESD.replace("/", "-"): f"emotion_dataset/{ESD}.wav",
        "CREMA-D-AudioWAV-1060_IWL_FEA_XX": "emotion_dataset/CREMA-D/AudioWAV/1060_IWL_FEA_XX.wav",
    }
    header = [
        "num",
        "wav_fp",
        "item_name",
        "gender",
        "pitch",
        "tempo",
        "energy",
        "emotion",
        "style_prompt",
        "content_prompt",
    ]
    emotions = ["nan", "surprised", "sad", "happy", "fear"]
    rows = [
        [n, "", item, "FM"[n % 2], "low", "high", "normal", emotion, f"Style, number {n}", "words"]
        for n, (item, emotion) in enumerate(zip(files, emotions, strict=True))
    ]
    # 014 is not there, but other files are: it must be missing, not resolved to a neighbour.
    rows.append([9, "", "MEAD-M027-audio-sad-level_1-013", "M", "low", "low", "low", "sad", "Gone", "words"])
    rows[4][1] = "/home/authors/textrolspeech/" + list(files.values())[4]
    table(folder / "caption" / "random_train.csv", [header, *rows[:4], rows[5]])
    table(folder / "caption" / "random_test.csv", [header, rows[4]])
    for path in files.values():
        wav(folder / path)
    return folder


BUILDERS = {
    "iemocap": iemocap,
    "jamendo_qa": jamendo_qa,
    "musicnet": musicnet,
    "promptspeech": promptspeech,
    "textrolspeech": textrolspeech,
}
