"""`gst-data prepare --corpus NAME` for each of the fourteen, and the choices of that verb."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import corpus_fixtures
import pytest
import soundfile
import webdataset
from prep_corpora import line, noise, tree, write_corpus, write_lines
from test_cli import main

from data_prep import cli
from pipeline.data.manifest import find_manifests
from pipeline.types import SPLITS, Clip

LOSSY = ("--max-bad-fraction", 1, "--max-missing-fraction", 1, "--jobs", 1)


@pytest.mark.parametrize("name", sorted(corpus_fixtures.BUILDERS))
def test_each_corpus_becomes_shards_that_webdataset_reads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus_fixtures.BUILDERS[name](tmp_path / "in")
    where = ("--corpus", name, "--root", tmp_path / "in", "--out", tmp_path / "out")
    assert main("prepare", *where, *LOSSY, monkeypatch=monkeypatch) == 0
    assert name in capsys.readouterr().out
    manifest = find_manifests(tmp_path / "out")[name]
    n_clips = 0
    for split, entry in manifest.splits.items():
        assert split in SPLITS
        urls = [str(tmp_path / "out" / name / shard.file) for shard in entry.shards]
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            clip = Clip.from_json(json.loads(sample["json"]))
            assert (clip.dataset, clip.split, sample["flac"][:4]) == (name, split, b"fLaC")
            n_clips += 1
    assert n_clips == manifest.states["ok"] > 0
    records = [json.loads(text) for text in (tmp_path / "out" / name / "quarantine.jsonl").read_text().splitlines()]
    assert len(records) == sum(manifest.states.values()) - n_clips
    assert all(record["reason"] for record in records)
    before = tree(tmp_path / "out")
    assert main("prepare", *where, *LOSSY, monkeypatch=monkeypatch) == 0
    assert tree(tmp_path / "out") == before
    capsys.readouterr()
    assert main("prepare", *where, "--probe", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name} in ") and "first record:" in text and manifest.licence in text


def test_a_plan_may_be_made_first_and_shards_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "corpus")
    arguments = ("prepare", "--root", tmp_path / "corpus", "--out", tmp_path / "out", "--jobs", 1)
    assert main(*arguments, "--reuse-plan", monkeypatch=monkeypatch) == 2
    assert "a prepared file is missing" in capsys.readouterr().err
    assert main(*arguments, "--plan-only", monkeypatch=monkeypatch) == 0
    assert not list(tmp_path.glob("out/noises/*.tar"))
    assert main(*arguments, "--reuse-plan", monkeypatch=monkeypatch) == 0
    clean = tree(tmp_path / "out")
    tar = tmp_path / "out/noises/noises-train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:600] + b"?" + content[601:])  # the same size
    assert main(*arguments, monkeypatch=monkeypatch) == 0
    assert tree(tmp_path / "out") != clean, "only the size is looked at"
    assert main(*arguments, "--verify", monkeypatch=monkeypatch) == 0
    assert tree(tmp_path / "out") == clean
    assert main(*arguments, "--reuse-plan", "--seed", 15, monkeypatch=monkeypatch) == 2
    assert "made with other options" in capsys.readouterr().err


def test_long_clips_are_cut_by_the_chosen_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line(index, split) for index, split in enumerate(("train", "val", "test"))]
    write_lines(tmp_path / "corpus", lines)
    (tmp_path / "corpus/audio").mkdir()
    for index in range(3):
        soundfile.write(tmp_path / f"corpus/audio/{index:03d}.wav", noise(5.0, seed=index), 16_000)
    arguments = ("prepare", "--root", tmp_path / "corpus", "--jobs", 1, "--window-s", 2)

    def train_clips(policy: str) -> list[Clip]:
        out = tmp_path / policy
        assert main(*arguments, "--out", out, "--long-clips", policy, monkeypatch=monkeypatch) == 0
        tar = str(out / "noises/noises-train-000000.tar")
        samples = list(webdataset.WebDataset(tar, shardshuffle=False))
        assert [sample["__key__"][-5:] for sample in samples] == [f"{index:05d}" for index in range(len(samples))]
        return [Clip.from_json(json.loads(sample["json"])) for sample in samples]

    (first,) = train_clips("first")
    assert (first.id, first.duration_s, first.meta["cut"]) == ("clip.000", 2.0, {"start_s": 0.0, "of_s": 5.0})
    (center,) = train_clips("center")
    assert center.meta["cut"] == {"start_s": 1.5, "of_s": 5.0}
    parts = train_clips("split")
    assert [clip.id for clip in parts] == ["clip.000@0s", "clip.000@2s", "clip.000@4s"]
    assert [clip.duration_s for clip in parts] == [2.0, 2.0, 1.0]
    assert [clip.qa[0].id for clip in parts] == ["clip.000@0s", "clip.000@2s", "clip.000@4s"]
    (whole,) = train_clips("keep")
    assert whole.duration_s == 5.0 and "cut" not in whole.meta
    assert main(*arguments, "--out", tmp_path / "none", "--long-clips", "refuse", monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("--option", "noises.x=1"), "no options"),
        (("--option", "noise.x=1"), "did you mean 'noises'"),
        (("--option", "x"), "corpus.name=value"),
        (("--long-clips", "last"), "first center split keep refuse"),
        (("--executor", "spark"), "local array ray"),
        (("--task-index", "1", "--num-tasks", "2"), "belong to --executor array"),
        (("--exclude", "youtube"), "no kind"),
        (("--corpus", "cloto"), "did you mean 'clotho'"),
    ],
)
def test_wrong_choices_are_refused_in_plain_words(
    choice: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_corpus(tmp_path / "corpus")
    where = ("--root", tmp_path / "corpus", "--out", tmp_path / "out")
    assert main("prepare", *where, *choice, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_archives_says_how_to_unpack_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tarfile

    corpus_fixtures.BUILDERS["chime_home"](tmp_path / "made")
    (tmp_path / "downloads").mkdir()
    with tarfile.open(tmp_path / "downloads/chime_home.tar.gz", "w:gz") as tar:
        tar.add(next((tmp_path / "made").iterdir()), arcname="chime_home")
    arguments = ("prepare", "--out", tmp_path / "out", "--corpus", "chime_home", *LOSSY)
    assert main(*arguments, "--root", tmp_path / "downloads", monkeypatch=monkeypatch) == 2
    assert f"gst-data unpack {tmp_path / 'downloads'}" in capsys.readouterr().err
    assert main("unpack", tmp_path / "downloads", "--out", tmp_path / "in", monkeypatch=monkeypatch) == 0
    assert main(*arguments, "--root", tmp_path / "in", monkeypatch=monkeypatch) == 0
    assert find_manifests(tmp_path / "out")["chime_home"].states["ok"]


def test_leaks_of_corpora_prepared_one_by_one_are_said_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, videos in {"one": {"shared": "train", "a": "train", "b": "val", "c": "test"},
                         "two": {"d": "train", "e": "train", "shared": "val", "f": "test"}}.items():  # fmt: skip
        folder = tmp_path / "in" / name
        lines = [
            line(index, split, dataset=name, source_keys={"youtube": video})
            for index, (video, split) in enumerate(videos.items())
        ]
        write_lines(folder, lines)
        (folder / "audio").mkdir()
        for index, value in enumerate(lines):
            soundfile.write(folder / value["audio"], noise(0.3, seed=index + 10 * (name == "two")), 16_000)
    common = ("prepare", "--out", tmp_path / "out", "--jobs", 1, "--root")
    assert main(*common, tmp_path / "in/one", monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    assert main(*common, tmp_path / "in/two", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert "warning: one: leak by youtube" in text and "prepare the first of these datasets again" in text
    assert main("lint", tmp_path / "out", monkeypatch=monkeypatch) == 1
    assert main(*common, tmp_path / "in/one", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert "leakage: 1 train clips left out, as two val holds the same recording (by youtube)" in text
    assert main("lint", tmp_path / "out", monkeypatch=monkeypatch) == 0


def test_help_names_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gst-data", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("mini", "unpack", "prepare", "lint", "info", "preview"))
