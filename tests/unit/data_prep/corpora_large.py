"""Tiny corpora of many sources in exactly their public layouts, with the known traps of each in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus_files import dump, litter, table, text, wav

WAVCAPS_JSON = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}


def pack(archive: Path, files: dict[str, Path]) -> Path:
    """A zip of files that are removed, with the litter that macOS puts into archives."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for name, file in files.items():
            packed.write(file, name)
            packed.writestr(f"__MACOSX/._{Path(name).name}", b"Mac OS X")
            file.unlink()
    return archive


def split_archive(whole: Path) -> None:
    """Make a zip look like the last part of a split one: its members lie in `.z01`, which comes beside it."""
    content = bytearray(whole.read_bytes())
    central = content.find(b"PK\x01\x02")
    while central != -1:
        content[central + 34 : central + 36] = (1).to_bytes(2, "little")
        central = content.find(b"PK\x01\x02", central + 4)
    whole.write_bytes(content)
    whole.with_suffix(".z01").write_bytes(b"PK\x07\x08")


def musicqa(root: Path) -> Path:
    """Two-turn conversations, leading blanks, several records an audio, one record without an answer, litter."""
    folder = root / "MusicQA"
    parts = {
        "Pretrain": [turns("000001", " Describe the audio", " A slow waltz."), turns("000001", "Tempo?", "Slow")],
        "Finetune": [turns("005522", "Genre?", "Rock"), turns("005523", "Genre?", " ")],
        "Eval": [turns("012542", "Mood?", "Calm")],
    }
    for part, records in parts.items():
        dump(folder / f"{part}MusicQA.json", records)
    for name in ("000001", "005522", "005523", "012542"):
        litter(wav(folder / "audios" / f"{name}.wav"))
    return folder


def turns(name: str, question: str, answer: str) -> dict[str, Any]:
    """A record of MusicQA."""
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"audio_name": f"{name}.wav", "conversation": said}


def musicqa_table(file: Path, rows: dict[str, list[str]]) -> Path:
    """A table as the authors' scripts write it with pandas: row numbers first, `;` between the columns."""
    fixed = ["Describe the audio", "Describe the audio in detail"]
    fixed += ["What do you hear in the audio?", "What can be inferred from the audio?"]
    header = ["", "audio_name", *fixed, *(f"OpenQA{number}" for number in range(1, 6))]
    return table(
        file, [header, *([index, name, *cells] for index, (name, cells) in enumerate(rows.items()))], delimiter=";"
    )


def openaqa(root: Path) -> Path:
    """Paths of another machine, rows of one clip apart from each other, doubled rows, refusals, audio gone, litter."""
    folder = root / "openaqa"
    youtube = "/data/sls/audioset/dave_version/audio/-bcDEFghi01.flac"
    rows = [
        (youtube, "as_20k", "cla_label", "Closed-ended question: Which sounds?", "Speech; \u266b music"),
        ("/data/sls/x/vggsound/Vv_DEFghi02_30.flac", "vggsound_train", "open-ended question", "Why?", "A party."),
        (youtube, "as_20k", "open-ended question", "Who speaks?", "It cannot be determined from the audio."),
        (youtube, "as_20k", "open-ended question", "What mood?", "A cheerful one."),
        ("/home/fsd/12345.wav", "fsd50k_tr", "caption", "Caption it.", "A bell."),
        ("/home/fsd/12345.wav", "fsd50k_tr", "caption", "Caption it.", "A bell."),
        ("/home/as/Ggggggggg03.flac", "as_2m", "temporal", "Order?", "First a dog."),
        ("/home/as/Hhhhhhhhh04.flac", "as_2m", "open-ended question", "Why?", "This cannot be determined."),
    ]
    openaqa_json(folder / "openaqa_5.6M.json", rows)
    for name in ("-bcDEFghi01.wav", "Vv_DEFghi02_30.wav", "Hhhhhhhhh04.wav"):
        litter(wav(folder / "audio" / "audioset" / name))
    wav(folder / "audio" / "fsd50k" / "12345.WAV")
    return folder


def openaqa_json(file: Path, rows: list[tuple[str, str, str, str, str]], transcript: str = "") -> Path:
    """Rows of (audio_id, dataset, task, question, answer) as LTU writes them."""
    keys = ("audio_id", "dataset", "task", "instruction", "output")
    return dump(file, [{**dict(zip(keys, row, strict=True)), "input": transcript} for row in rows])


def sounddescs(root: Path) -> Path:
    """Pickled default dictionaries, descriptions as text and as list, category 'None', nested and flat audio."""
    folder = root / "sounddescs"
    descriptions: defaultdict[str, Any] = defaultdict(str)
    descriptions |= {"07051146": "Door, int. - closes.", "nhu05001001": ["Birds at dawn."], "07000001": "Rain."}
    categories: defaultdict[str, list[str]] = defaultdict(list)
    categories |= {"07051146": ["Doors", "Interiors"], "nhu05001001": ["None"], "07000001": ["Weather"]}
    data = folder / "sounddescs_data"
    data.mkdir(parents=True)
    (data / "descriptions.pkl").write_bytes(pickle.dumps(descriptions))
    (data / "categories.pkl").write_bytes(pickle.dumps(categories, protocol=2))
    lists = {"train": "07051146\nnhu05001001\n", "val": "07000001\n", "test": "07000002\n"}
    for split, content in lists.items():
        text(folder / "data" / "SoundDescs" / f"{split}_list.txt", content)
    litter(wav(folder / "audios" / "07051146" / "07051146.wav"))
    wav(folder / "audios" / "nhu05001001" / "nhu05001001.wav")
    wav(folder / "07000001.wav")
    wav(folder / "07000002.WAV")
    return folder


def wavcaps(root: Path) -> Path:
    """Four sources, `Y....wav` ids, the same number in two sources, int and float durations, a file gone, litter."""
    folder = root / "WavCaps"
    rows: dict[str, list[dict[str, Any]]] = {
        "AudioSet_SL": [{"id": "Yb0RFKhbpFJA.wav", "caption": "Wind blows.", "duration": 10.0}],
        "BBC_Sound_Effects": [{"id": "NHU05001001", "caption": "Birds.", "category": "['Birds', 'Nature']"}],
        "FreeSound": [
            {"id": "77", "caption": "A bell \u2013 far.", "tags": ["bell"], "duration": "12.5"},
            {"id": "78", "caption": "Gone.", "duration": "n/a"},
        ],
        "SoundBible": [{"id": "77", "caption": "A bird sings.", "title": "Bird", "duration": 3}],
    }
    for source, items in rows.items():
        data = [{**item, "audio": "wav_path"} for item in items]
        dump(folder / "json_files" / source / WAVCAPS_JSON[source], {"num_captions_per_audio": 1, "data": data})
        stems = [item["id"].removesuffix(".wav") for item in items if item["id"] != "78"]
        for stem in stems:
            litter(wav(folder / "Audio" / source / f"{stem}.flac"))
    return folder


def wavcaps_blacklists(folder: Path) -> Path:
    """The corpus' three lists and the two of aac-datasets, none of which names everything that another names."""
    lists = {
        "exclude_all_ac": {"AudioSet": ["Yb0RFKhbpFJA.wav"], "FreeSound": ["78"]},
        "exclude_test_ac": {"AudioSet": [], "FreeSound": ["78"]},
        "exclude_ub8k_esc50_vggsound": {"AudioSet": ["Yb0RFKhbpFJA.wav"], "FreeSound": [77]},
    }
    for name, content in lists.items():
        text(folder / "json_files" / "blacklist" / f"blacklist_{name}.json", json.dumps(content))
    rows = {"audiocaps.full": ["index,id", "0,Yb0RFKhbpFJA.wav"], "clotho.full.v2": ["\ufeffindex,id", "0,77"]}
    for name, lines in rows.items():
        text(folder / f"blacklist_{name}.csv", "\r\n".join(lines) + "\r\n")
    return folder


BUILDERS = {
    "musicqa": musicqa,
    "openaqa": openaqa,
    "sounddescs": sounddescs,
    "wavcaps": wavcaps,
}
