"""The generic adapter: lines to clips, several corpora in a folder, bad lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from prep_corpora import line, write_lines

from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.jsonl import JsonlCorpus
from pipeline.errors import CorpusError


def clips(root: Path, name: str = "noises") -> list[SourceClip]:
    return list(JsonlCorpus(name).clips(root, Findings()))


def test_one_line_is_one_clip(tmp_path: Path) -> None:
    write_lines(tmp_path, [line(0, "train", task="tagging", answers=["noise", "hiss"], source_keys={"bbc": "1"}, x=1)])
    (clip,) = clips(tmp_path)
    assert (clip.id, clip.split, clip.domain) == ("clip.000", "train", "sound")
    assert clip.audio == tmp_path / "audio/000.wav"
    assert clip.source_keys == {"bbc": "1"}
    assert (clip.qa[0].task, clip.qa[0].answer, clip.qa[0].answers) == ("tagging", "noise", ("noise", "hiss"))


def test_lines_with_the_same_audio_are_one_clip_unless_the_window_differs(tmp_path: Path) -> None:
    same = {"audio": "a.wav"}
    write_lines(
        tmp_path,
        [
            line(0, "train", **same),
            line(1, "train"),
            line(2, "train", **same, question="Is it loud?"),
            line(3, "train", **same, start_s=1, end_s=2.5),
            line(4, "train", audio="b.wav", clip_id="b"),
            line(5, "train", audio="b.wav", clip_id="b"),
        ],
    )
    found = {clip.id: [qa.id for qa in clip.qa] for clip in clips(tmp_path)}
    assert found == {
        "clip.000": ["clip.000", "clip.002"],
        "clip.001": ["clip.001"],
        "clip.003": ["clip.003"],
        "b": ["clip.004", "clip.005"],
    }
    assert [(clip.start_s, clip.end_s) for clip in clips(tmp_path) if clip.id == "clip.003"] == [(1.0, 2.5)]


def test_bad_lines_are_quarantined_with_their_line_number(tmp_path: Path) -> None:
    no_answer = {key: value for key, value in line(1, "train").items() if key != "answer"}
    write_lines(
        tmp_path,
        [
            line(0, "train"),
            no_answer,
            line(2, "train", domain="noise"),
            line(3, "val", audio="audio/000.wav"),
            line(0, "train", audio="audio/004.wav"),
        ],
    )
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n{broken\n\xff\xfe\n")
    found = [(clip.state, clip.id) for clip in clips(tmp_path)]
    assert found == [
        ("ok", "clip.000"),
        ("bad_annotation", "clip.003"),
        ("bad_annotation", "metadata.jsonl:2"),
        ("bad_annotation", "metadata.jsonl:3"),
        ("duplicate", "metadata.jsonl:5"),
        ("bad_annotation", "metadata.jsonl:7"),
        ("bad_annotation", "metadata.jsonl:8"),
    ]
    reasons = {clip.id: clip.reason for clip in clips(tmp_path)}
    assert reasons["metadata.jsonl:2"].startswith("answer:")
    assert "line 4" in reasons["clip.003"]


def test_several_corpora_in_one_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "one", [line(0, "train", dataset="b"), line(1, "train", dataset="a", domain="music")])
    write_lines(tmp_path / "deep/er/two", [line(2, "test", dataset="a", domain="music"), line(3, "test", dataset="c")])
    write_lines(tmp_path / "__MACOSX", [line(4, "test", dataset="litter")])
    found = {corpus.name: (corpus, folder) for corpus, folder in JsonlCorpus().discover(tmp_path)}
    assert list(found) == ["a", "b", "c"]
    assert found["a"][0].domain == "music"
    assert found["b"][1] == tmp_path / "one"
    ids = {name: [clip.id for clip in corpus.clips(folder, Findings())] for name, (corpus, folder) in found.items()}
    assert ids == {"a": ["clip.001", "clip.002"], "b": ["clip.000"], "c": ["clip.003"]}
    assert JsonlCorpus("c").find(tmp_path) == tmp_path / "deep/er/two"
    assert JsonlCorpus("d").find(tmp_path) is None


@pytest.mark.parametrize(("content", "number"), [(b"", 1), (b"\n\nnot json\n{}\n", 3)])
def test_a_file_without_a_usable_line_is_an_error_that_names_the_line(
    tmp_path: Path, content: bytes, number: int
) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        JsonlCorpus().discover(tmp_path)
    assert caught.value.where == {"file": path, "line": number}
    assert JsonlCorpus().discover(tmp_path, strict=False) == []
