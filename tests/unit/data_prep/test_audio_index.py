"""Finding audio by name: formats, letter case, Unicode forms, litter, links."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from data_prep.adapters.audio_index import StemIndex, audio_files, audio_stem
from data_prep.adapters.base import Findings
from data_prep.adapters.common import folders, split_groups
from pipeline.errors import CorpusError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.wav", "a"),
        ("x/y/Some  rain 03 .WAV", "Some  rain 03 "),
        ("CR_lounge.s1_chunk2.48kHz.wav", "CR_lounge.s1_chunk2.48kHz"),
        ("CR_lounge.s1_chunk2.48kHz", "CR_lounge.s1_chunk2.48kHz"),
        ("Cafe\u0301.flac", "Caf\u00e9"),
        ("-abc", "-abc"),
    ],
)
def test_stem(name: str, stem: str) -> None:
    assert audio_stem(name) == stem


def test_exact_case_wins_and_other_case_helps(tmp_path: Path) -> None:
    touch(tmp_path, "aB.wav", "ab.wav", "NHU01.wav", "Xy.wav", "xY.wav")
    index = StemIndex.below(tmp_path)
    assert index.find("aB") == tmp_path / "aB.wav"
    assert index.find("ab") == tmp_path / "ab.wav"
    assert index.find("AB") is None  # two files could be meant
    assert index.find("nhu01") == tmp_path / "NHU01.wav"
    assert index.find("XY") is None
    assert index.find("NHU01.wav") == index.find("Nhu01")
    assert index.find("none", "nhu01.wav") == tmp_path / "NHU01.wav"


def test_preferred_format_then_path_order(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp3", "b/x.flac", "c/x.flac")
    assert StemIndex.below(tmp_path).find("x") == tmp_path / "b" / "x.flac"


def pack(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def test_members_of_archives_are_found_where_their_archive_lies(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "z.wav", "sub/q.wav")
    pack(tmp_path / "audios.zip", "audios/n.wav", "audios/m.wav", "__MACOSX/audios/._m.wav", "readme.txt")
    pack(tmp_path / "zip_audios/07066104/07066104.wav.ZIP", "07066104.wav")
    pack(tmp_path / "csv.zip", "table.csv")
    pack(tmp_path / "._b.zip", "b.wav")
    assert [path.removeprefix(f"{tmp_path}/") for path in audio_files(tmp_path)] == [
        "a.wav", "audios.zip!/audios/m.wav", "audios.zip!/audios/n.wav", "z.wav", "sub/q.wav",
        "zip_audios/07066104/07066104.wav.ZIP!/07066104.wav",
    ]  # fmt: skip
    index = StemIndex.below(tmp_path)
    assert index.find("m.wav") == tmp_path / "audios.zip!" / "audios" / "m.wav"
    assert index.find("07066104") == tmp_path / "zip_audios/07066104/07066104.wav.ZIP!/07066104.wav"


def test_what_was_unpacked_wins_over_its_archive(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", "x.flac", "y.wav", "z.mp3")
    pack(tmp_path / "b.zip", "y.wav", "z.wav")
    touch(tmp_path, "unpacked/x.mp3")
    index = StemIndex.below(tmp_path)
    assert index.find("x") == tmp_path / "unpacked" / "x.mp3"
    assert index.find("y") == tmp_path / "a.zip!" / "y.wav"
    assert index.find("z") == tmp_path / "b.zip!" / "z.wav"


def test_archives_that_cannot_be_listed_are_told(tmp_path: Path) -> None:
    (tmp_path / "audios.zip").write_bytes(b"PK, but cut")
    with pytest.raises(CorpusError, match=r"audios\.zip: a zip archive is cut or damaged"):
        StemIndex.below(tmp_path)
    (tmp_path / "1.wav.zip").write_bytes(b"an error page")
    touch(tmp_path, "2.wav")
    found = Findings()
    index = StemIndex.below(tmp_path, found=found)
    assert index.find("1") == tmp_path / "1.wav.zip!" / "1.wav", "not missing: damaged, which decoding will say"
    assert index.find("2") == tmp_path / "2.wav"
    assert len(found.notes) == 1 and "audios.zip" in found.notes[0]


def test_litter_is_no_audio(tmp_path: Path) -> None:
    touch(tmp_path, "._a.wav", "__MACOSX/a.wav", ".cache/a.wav", "readme.txt", "b.FLAC")
    assert list(audio_files(tmp_path)) == [str(tmp_path / "b.FLAC")]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.wav")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(corpus)
    assert list(audio_files(corpus)) == [str(corpus / "linked" / "a.wav")]


def test_no_audio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no audio"):
        StemIndex.below(tmp_path)


def test_folders_are_bounded_in_depth_and_width(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c/d/x", "speakers/readme")
    for number in range(201):
        (tmp_path / "speakers" / str(number)).mkdir()
    found = [str(path.relative_to(tmp_path)) for path in folders(tmp_path)]
    assert found == [".", "a", "speakers", "a/b", "a/b/c"]


def test_groups_are_dealt_by_name_alone() -> None:
    names = [f"place-{n}" for n in range(50)]
    split_of = split_groups(names)
    assert split_of == split_groups(list(reversed(names)))
    counts = {split: list(split_of.values()).count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 40, "val": 5, "test": 5}
    assert set(split_groups(["a", "b"]).values()) == {"train"}
    assert sorted(split_groups(["a", "b", "c"]).values()) == ["test", "train", "val"]
