"""Shards: readable by others, the same bytes every time, repaired when damaged, complete or not listed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpus_fixtures
import numpy as np
import pytest
import soundfile
import webdataset
from prep_corpora import line, noise, tree, write_corpus, write_lines

from data_prep.adapters.jsonl import JsonlCorpus
from data_prep.audio.load import AudioOptions, decode_flac
from data_prep.look.lint import lint
from data_prep.planning.corpora import find_corpora
from data_prep.planning.plan import Corpus, PlanOptions, make_plan, make_plans
from data_prep.shards.executors import make_executor
from data_prep.shards.finish import Outcome, Thresholds, raise_failures
from data_prep.shards.prepare import prepare
from data_prep.shards.write import write_shard
from pipeline.data.manifest import ShardSide, find_manifests, manifest_digest, read_model
from pipeline.errors import CorpusError, ShardError
from pipeline.types import Clip

SMALL = PlanOptions(max_clips_per_shard=3)


def prepare_all(
    corpora: list[Corpus], out: Path, *, options: PlanOptions | None = None, jobs: int = 1, **more: Any
) -> list[Outcome]:
    return prepare(make_plans(corpora, out, options or PlanOptions()), make_executor("local", jobs), **more)


def prepare_noises(corpus: Path, out: Path, *, options: PlanOptions = SMALL, **more: Any) -> Outcome:
    (outcome,) = prepare_all([(JsonlCorpus("noises"), corpus)], out, options=options, **more)
    return outcome


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def test_webdataset_reads_the_same_keys_and_clips(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_noises(corpus, tmp_path / "out").manifest
    folder = tmp_path / "out/noises"
    assert find_manifests(tmp_path / "out") == {"noises": manifest}
    assert {name: (split.clips, len(split.shards)) for name, split in manifest.splits.items()} == {
        "train": (8, 3),
        "val": (2, 1),
        "test": (2, 1),
    }
    for split in manifest.splits.values():
        sides = [read_model((folder / shard.file).with_suffix(".json"), ShardSide) for shard in split.shards]
        urls = [str(folder / shard.file) for shard in split.shards]
        seen = list(webdataset.WebDataset(urls, shardshuffle=False))
        entries = [(folder / side.shard, sample) for side in sides for sample in side.samples]
        assert [sample["__key__"] for sample in seen] == [entry.key for _, entry in entries]
        for sample, (tar, entry) in zip(seen, entries, strict=True):
            content = tar.read_bytes()
            text = content[entry.json_offset : entry.json_offset + entry.json_size]
            flac = content[entry.audio_offset : entry.audio_offset + entry.audio_size]
            assert (sample["json"], sample["flac"]) == (text, flac)
            clip = Clip.from_json(json.loads(text))
            assert (clip.id, clip.duration_s, len(clip.qa)) == (entry.clip_id, entry.duration_s, entry.n_qa)
            source = noise(0.3, seed=int(clip.id.removeprefix("clip.")))
            assert np.abs(decode_flac(flac)[0] - source).max() < 1e-4


def test_wids_index_and_digest(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_noises(corpus, tmp_path / "out").manifest
    index = json.loads((tmp_path / "out/noises/noises-train.wids.json").read_text())
    assert index["wids_version"] == 1 and index["name"] == "noises-train"
    assert index["shardlist"] == [
        {"url": f"noises-train-{i:06d}.tar", "nsamples": count} for i, count in enumerate((3, 3, 2))
    ]
    assert manifest.digest == manifest_digest(manifest.splits)


def test_one_and_two_jobs_write_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    prepare_noises(corpus, tmp_path / "one", jobs=1)
    prepare_noises(corpus, tmp_path / "two", jobs=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_second_run_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    prepare_noises(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    kept: list[bool] = []
    prepare_noises(corpus, tmp_path / "out", on_shard=lambda task, side, is_kept: kept.append(is_kept))
    assert kept == [True] * 5
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["no side", "no tar", "short tar", "bad side", "no manifest"])
def test_damage_is_repaired_to_the_same_bytes(corpus: Path, tmp_path: Path, damage: str) -> None:
    prepare_noises(corpus, tmp_path / "out")
    clean = tree(tmp_path / "out")
    folder = tmp_path / "out/noises"
    tar, side = folder / "noises-train-000001.tar", folder / "noises-train-000001.json"
    if damage in ("no side", "no tar"):
        (side if damage == "no side" else tar).unlink()
    elif damage == "short tar":
        tar.write_bytes(tar.read_bytes()[:-1024])
    elif damage == "bad side":
        side.write_text(side.read_text()[:100])
    else:
        (folder / "manifest.json").unlink()
    prepare_noises(corpus, tmp_path / "out")
    assert tree(tmp_path / "out") == clean


def test_leftovers_of_dead_writers_and_older_plans_go(corpus: Path, tmp_path: Path) -> None:
    prepare_noises(corpus, tmp_path / "out")
    folder = tmp_path / "out/noises"
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # dead, but not reaped: its pid still exists
    stale = folder / f".noises-train-000000.tar.{dead.pid}.{socket.gethostname()}.tmp"
    alive = folder / f".noises-train-000000.tar.{os.getppid()}.{socket.gethostname()}.tmp"
    for path in (stale, alive):
        path.write_bytes(b"half")
    prepare_noises(corpus, tmp_path / "out", options=PlanOptions(max_clips_per_shard=100))
    assert not stale.exists() and alive.exists()
    dead.wait()
    alive.unlink()
    assert sorted(path.name for path in folder.glob("*.tar")) == [
        f"noises-{split}-000000.tar" for split in ("test", "train", "val")
    ]
    assert lint(tmp_path / "out", decode=True).problems == []


def test_bad_clips_are_listed_and_counted(corpus: Path, tmp_path: Path) -> None:
    (corpus / "audio/000.wav").write_bytes(b"<html>")
    (corpus / "audio/001.wav").unlink()
    soundfile.write(corpus / "audio/002.wav", np.zeros(16_000), 16_000)
    outcome = prepare_noises(corpus, tmp_path / "out", thresholds=Thresholds(0.1, 0.1))
    assert outcome.error is None
    assert outcome.manifest.states == {"ok": 9, "missing": 1, "unreadable": 1, "silent": 1}
    text = (tmp_path / "out/noises/quarantine.jsonl").read_text()
    records = {record["id"]: record for record in map(json.loads, text.splitlines())}
    assert {name: (record["state"], record["stage"]) for name, record in records.items()} == {
        "clip.001": ("missing", "plan"),
        "clip.000": ("unreadable", "audio"),
        "clip.002": ("silent", "audio"),
    }
    assert records["clip.000"]["audio"] == "audio/000.wav" and "web page" in records["clip.000"]["reason"]
    assert lint(tmp_path / "out", decode=True).problems == []


@pytest.mark.parametrize(("what", "damage"), [("damaged", b"<html>"), ("missing", None)])
def test_losses_beyond_the_threshold_fail_at_the_end(
    corpus: Path, tmp_path: Path, what: str, damage: bytes | None
) -> None:
    broken = write_corpus(tmp_path / "broken")
    for index in (0, 1):
        path = broken / f"audio/00{index}.wav"
        path.unlink() if damage is None else path.write_bytes(damage)
    lines = [line(index, "train", dataset="broken") for index in range(8)]
    write_lines(broken, lines)
    corpora = [(JsonlCorpus("broken"), broken), (JsonlCorpus("noises"), corpus)]
    outcomes = prepare_all(corpora, tmp_path / "out")
    assert outcomes[0].error is not None and what in outcomes[0].error.what and "2 of 8" in str(outcomes[0].error)
    assert outcomes[1].error is None
    assert list(find_manifests(tmp_path / "out")) == ["noises"]
    assert list((tmp_path / "out/broken").glob("*.tar"))
    with pytest.raises(CorpusError, match=what):
        raise_failures(outcomes)
    with pytest.raises(CorpusError, match="2 corpora"):
        raise_failures([outcomes[0], outcomes[0]])
    allowed = prepare_all(corpora, tmp_path / "out", thresholds=Thresholds(0.5, 0.5))
    assert [outcome.error for outcome in allowed] == [None, None]
    assert prepare_all(corpora, tmp_path / "out")[0].error is not None
    assert list(find_manifests(tmp_path / "out")) == ["noises"], "a stricter run takes the manifest back"


def test_the_adapter_may_allow_more_missing(corpus: Path, tmp_path: Path) -> None:
    class Lossy(JsonlCorpus):
        max_missing_fraction = 0.3

    for index in (0, 1):
        (corpus / f"audio/00{index}.wav").unlink()
    (outcome,) = prepare_all([(Lossy("noises"), corpus)], tmp_path / "out")
    assert outcome.error is None
    (stricter,) = prepare_all([(Lossy("noises"), corpus)], tmp_path / "out", thresholds=Thresholds(0.02, 0.1))
    assert stricter.error is not None


def test_a_shard_without_a_usable_clip_is_not_listed(corpus: Path, tmp_path: Path) -> None:
    prepare_noises(corpus, tmp_path / "out")
    for index in (8, 9):
        (corpus / f"audio/00{index}.wav").write_bytes(b"")
    manifest = prepare_noises(corpus, tmp_path / "out", thresholds=Thresholds(0.5)).manifest
    assert list(manifest.splits) == ["train", "test"]
    assert not (tmp_path / "out/noises/noises-val.wids.json").exists()
    assert lint(tmp_path / "out").problems == []


def test_every_known_layout_becomes_clean_shards(tmp_path: Path) -> None:
    for build in corpus_fixtures.BUILDERS.values():
        build(tmp_path / "in")
    options = PlanOptions(audio=AudioOptions(min_duration_s=0.01))
    outcomes = prepare_all(
        find_corpora(tmp_path / "in"), tmp_path / "out", options=options, thresholds=Thresholds(1, 1)
    )
    assert sorted(find_manifests(tmp_path / "out")) == sorted(corpus_fixtures.BUILDERS)
    assert all(outcome.manifest.states["ok"] for outcome in outcomes)
    assert lint(tmp_path / "out", decode=True).problems == []


def test_unusable_output_is_a_typed_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/noises").write_text("a file where the folder should be")
    with pytest.raises(ShardError, match="a plan cannot be written"):
        prepare_noises(corpus, tmp_path / "out")
    plan = make_plan(JsonlCorpus("noises"), corpus, tmp_path / "fine", SMALL)
    with pytest.raises(ShardError, match="a shard cannot be written"):
        write_shard(replace(plan.shards[0], folder=tmp_path / "out/noises"))
