"""Tiny caption and scene corpora in exactly their public layouts, with the known traps of each in them."""

from __future__ import annotations

import shutil
from pathlib import Path

from corpus_files import litter, table, text, wav

AUDIOCAPS_COLUMNS = ["audiocap_id", "youtube_id", "start_time", "caption"]
CLOTHO_METADATA = ["file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"]


def audiocaps(root: Path) -> Path:
    """v1: CRLF, an id with a leading hyphen, a comma in a caption, five file naming rules, one clip gone."""
    folder = root / "audiocaps"
    train = [
        [11, "-abcDEF1234", 30, "Wind blows, then a door shuts"],
        [12, "Bbbbbbbbbb1", 0, "A dog barks"],
        [13, "Cccccccccc1", 5, "Water runs"],
        [14, "Dddddddddd1", 7, "A bell rings"],
        [15, "Eeeeeeeeee1", 40, "A car passes"],
        [16, "Gone_______", 10, "Nobody knows"],
    ]
    val = [[100 + n, "Vvvvvvvvvv1", 120, f"caption {n}"] for n in range(5)]
    test = [[200 + n, "Tttttttttt1", 60, f"reference {n}"] for n in range(5)]
    for split, rows in (("train", train), ("val", val), ("test", test)):
        table(folder / "dataset" / f"{split}.csv", [AUDIOCAPS_COLUMNS, *rows], line_end="\r\n")
    audio = folder / "audio_32000Hz"
    wav(audio / "train" / "-abcDEF1234_30.flac")
    wav(audio / "train" / "Bbbbbbbbbb1.wav")
    wav(audio / "train" / "YCccccccccc1.wav")
    wav(audio / "train" / "14.wav")
    wav(audio / "train" / "Eeeeeeeeee1-[40-50].wav")
    wav(audio / "val" / "Vvvvvvvvvv1_120000.wav")
    litter(wav(audio / "test" / "Tttttttttt1_60.WAV"))
    wav(folder / "__MACOSX" / "Gone________10.wav")
    return folder


def audiocaps_v2(folder: Path) -> Path:
    """v2's tables: LF, lower case, the rows of a clip apart from each other, in train too, one caption empty."""
    train = [
        [31, "-abcDEF1234", 30, "wind blows, then a door shuts"],
        [32, "Bbbbbbbbbb1", 0, "a dog barks"],
        [33, "-abcDEF1234", 30, "a door is shut in the wind"],
        [34, "Bbbbbbbbbb1", 0, ""],
        [35, "-abcDEF1234", 30, "a gust and a thud"],
    ]
    val = [[300 + n, "Vvvvvvvvvv1", 120, f"lower {n}"] for n in range(5)]
    test = [[400 + n, "Tttttttttt1", 60, f"low {n}"] for n in range(5)]
    for split, rows in (("train", train), ("val", val), ("test", test)):
        table(folder / f"{split}.csv", [AUDIOCAPS_COLUMNS, *rows])
    return folder


def audiocaps_of_wavcaps(root: Path) -> Path:
    """WavCaps' copy: one row a clip with `Y<id>.wav`, the captions of val and test side by side."""
    folder = root / "AudioCaps"
    table(folder / "csv_files" / "train.csv", [["file_name", "caption"], ["Y-abcDEF1234.wav", "Wind, then a door"]])
    for split, name in (("val", "YVvvvvvvvvv1.wav"), ("test", "YTttttttttt1.wav")):
        header = ["file_name", *(f"caption_{n}" for n in range(1, 6))]
        table(folder / "csv_files" / f"{split}.csv", [header, [name, *(f"{split} {n}" for n in range(5))]])
        wav(folder / "waveforms" / split / name)
    wav(folder / "waveforms" / "train" / "Y-abcDEF1234.wav")
    return folder


CHIME_VOTES = {
    "CR_lounge_200110_1601.s0_chunk1": "cm",
    "CR_lounge_200110_1711.s120_chunk2": "",
    "CR_lounge_210110_0739.s4_chunk3": "U",
    "CR_lounge_220110_0731.s8_chunk7": "pbv",
    "CR_lounge_200110_1601.s0_chunk4": "S",
}
CHIME_RAW_ONLY = "CR_lounge_210110_0739.s4_chunk9"


def chime_home(root: Path) -> Path:
    """Lists without header, vertical chunk tables, names with dots, an empty vote, chunks in two folders, folds."""
    folder = root / "chime_home"
    test = "CR_lounge_220110_0731.s8_chunk7"
    train = [name for name in CHIME_VOTES if name != test]
    table(folder / "development_chunks_refined.csv", enumerate(train, 1), line_end="\r\n")
    table(folder / "evaluation_chunks_refined.csv", [[1, test]])
    table(folder / "development_chunks_raw.csv", enumerate([*train, CHIME_RAW_ONLY], 1))
    table(folder / "evaluation_chunks_raw.csv", [[1, test]])
    # DCASE's reader adds one to the folds of the file.
    folds = [[n, name, min(n, 2)] for n, name in enumerate(train)]
    table(folder / "development_chunks_refined_crossval_dcase2016.csv", folds)
    for number, (name, vote) in enumerate([*CHIME_VOTES.items(), (CHIME_RAW_ONLY, "co")]):
        chunks = folder / ("chunks1" if number % 2 else "chunks2")
        rows = [["segmentname", name.rsplit("_", 1)[0]], ["chunkname", name], ["session_a1", "1.5"]]
        table(chunks / f"{name}.csv", [*rows, ["annotation_a1", "c"], ["majorityvote", vote]])
        wav(chunks / f"{name}.48kHz.wav")
        if number == 0:
            litter(wav(chunks / f"{name}.16kHz.wav"))
            litter(chunks / f"{name}.csv")
    text(folder / "README", "CHiME-Home")
    text(folder / "chunks1" / "notes.csv", "not,a,chunk\n")
    return folder


def clotho(root: Path) -> Path:
    """aac-datasets' tree: Latin-1 metadata in another order, file names with traps, the other releases beside."""
    folder = root / "CLOTHO_v2.1"
    names = {
        "development": ["Some rain 03.wav", "Rumbling .wav", "a, b &amp; c (1).wav", "Some  double.v2.wav"],
        "validation": ["val one.wav"],
        "evaluation": ["eval #1 @ home.wav"],
    }
    tables = folder / "clotho_csv_files"
    for first_id, (part, files) in zip((1000, 2000, 3000), names.items(), strict=True):
        captions = [[name, *(f"{name[:3].strip()} caption {n}." for n in range(1, 6))] for name in files]
        table(
            tables / f"clotho_captions_{part}.csv", [["file_name", *(f"caption_{n}" for n in range(1, 6))], *captions]
        )
        about = [[name, "rain;café", first_id + n, "link", "[0, 5]", "é", "CC0"] for n, name in enumerate(files)]
        table(tables / f"clotho_metadata_{part}.csv", [CLOTHO_METADATA, *reversed(about)], encoding="latin-1")
        for name in files:
            wav(folder / "clotho_audio_files" / part / name)
    # Releases without captions; the test metadata has other columns and another delimiter.
    text(tables / "clotho_metadata_test.csv", "file_name;sound_id\ntest 1.wav;7\n")
    text(tables / "retrieval_captions.csv", "caption\nA dog.\n")
    wav(folder / "clotho_audio_files" / "test" / "test 1.wav")
    return folder


COCHL_NAMES = (
    "Train/Bus/Bus_user0001_14987654_001.wav",
    "Train/CrowdedIndoor/CrowdedIndoor_user0002_14987655_002.wav",
    "Val/SubwayStation/SubwayStation_user0003_14987656_000.wav",
    "Test/Cafe/Cafe_user0004_14987657_003.wav",
)
COCHL_GONE = "Test/Park/Park_user0005_14987658_001.wav"


def cochlscene(root: Path, prefix: str = "./data/CochlScene/") -> Path:
    """Split and label by folder; the list names one file that is not there."""
    folder = root / "CochlScene"
    for name in COCHL_NAMES:
        wav(folder / name)
    litter(folder / COCHL_NAMES[0])
    rows = [[f"{prefix}{name}", 0, name.split("/")[0]] for name in (*COCHL_NAMES, COCHL_GONE)]
    table(folder / "Data_info.tsv", rows, delimiter="\t")
    return folder


MACS_NAMES = (
    "airport-lisbon-12-345-a.wav",
    "airport-lisbon-12-346-a.wav",
    *(f"park-{city}-{n}-7{n}-a.wav" for n, city in enumerate(["paris", "prague", "milan", "vienna", "lyon"])),
)


def macs(root: Path) -> Path:
    """Two to five annotators, competences, two clips of one location, one file gone."""
    folder = root / "MACS"
    entries = []
    for name in MACS_NAMES:
        entries += [
            f"- filename: {name}",
            "  annotations:",
            "  - annotator_id: 7",
            "    sentence: People walk and talk in a hall.",
            "    tags: [adults_talking, footsteps]",
            "  - annotator_id: 21",
            "    sentence: Steps, and far voices.",
            "    tags: [footsteps, siren]",
            "  - annotator_id: 30",
            "    sentence: A busy hall.",
            "    tags: [adults_talking]",
        ]
    text(folder / "MACS.yaml", "\n".join(["files:", *entries, ""]))
    table(
        folder / "MACS_competence.csv",
        [["annotator_id", "competence"], [7, 0.9], [21, 0.9], [30, 0.1]],
        delimiter="\t",
    )
    tau_meta(folder / "tau_meta")
    for name in MACS_NAMES[:-1]:
        wav(folder / "audio" / name)
    return folder


def tau_meta(folder: Path) -> None:
    """TAU's meta.csv, with the columns of its release."""
    rows = [[f"audio/{n}", n.split("-")[0], "-".join(n.split("-")[1:3]), n.split("-")[1]] for n in MACS_NAMES]
    table(folder / "meta.csv", [["filename", "scene_label", "identifier", "source_label"], *rows], delimiter="\t")


def macs_beside_tau(root: Path) -> Path:
    """As published: the annotations in a folder of their own, TAU's development set beside it, more audio than MACS."""
    macs(root)
    tau = root / "TAU-urban-acoustic-scenes-2019-development"
    (root / "MACS" / "audio").rename(tau.with_name("audio"))
    tau.mkdir()
    tau.with_name("audio").rename(tau / "audio")
    (root / "MACS" / "tau_meta" / "meta.csv").rename(tau / "meta.csv")
    (root / "MACS" / "tau_meta").rmdir()
    wav(tau / "audio" / "metro-oslo-3-99-a.wav")
    lists = {"train": MACS_NAMES[:4], "evaluate": MACS_NAMES[4:6]}
    for name, files in lists.items():
        rows = [[f"audio/{file}", file.split("-")[0]] for file in files]
        table(tau / "evaluation_setup" / f"fold1_{name}.csv", [["filename", "scene_label"], *rows], delimiter="\t")
    rows = [[f"audio/{file}"] for file in lists["evaluate"]]
    table(tau / "evaluation_setup" / "fold1_test.csv", [["filename"], *rows], delimiter="\t")
    return root


def zipped(folder: Path) -> Path:
    """The folder as a zip beside it, and no longer itself."""
    archive = shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    return Path(archive)


BUILDERS = {
    "audiocaps": audiocaps,
    "chime_home": chime_home,
    "clotho": clotho,
    "cochlscene": cochlscene,
    "macs": macs,
}
