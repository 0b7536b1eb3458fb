"""Finding audio by name: formats, letter case, Unicode forms, litter, links."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.adapters.audio_index import StemIndex, audio_files, audio_stem
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
