"""The frame of `gst bench loader`: what counts as a loader that hands over the clips, and what does not."""

from __future__ import annotations

import io
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from tests.bench import loader
from tests.bench.loader_data import expected_digests, write_shards
from tests.bench.loader_peers import ours, serve, webdataset
from tests.bench.loader_peers.contract import Batch, Decoded, collate, digest, digests
from tests.bench.loader_process import Loader, LoaderFailed, pythons

N_CLIPS = 20


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("clips"), N_CLIPS, 0.5, 1.0, 14)


def a_batch() -> Batch:
    clips = [Decoded(f"clip{n}", np.full(n, 0.5, dtype=np.float32), f"q{n}", f"a{n}") for n in (3, 1, 2)]
    return collate(clips)


def test_a_batch_is_padded_with_silence() -> None:
    batch = a_batch()
    assert batch.audio.dtype == torch.float32
    assert batch.audio.tolist() == [[0.5, 0.5, 0.5], [0.5, 0, 0], [0.5, 0.5, 0]]
    assert (batch.lengths, batch.ids, batch.answers) == ([3, 1, 2], ["clip3", "clip1", "clip2"], ["a3", "a1", "a2"])


def test_a_digest_sees_audio_and_text() -> None:
    found = digests(a_batch())
    audio = np.full(3, 0.5, dtype=np.float32)
    assert found["clip3"] == digest(audio, "q3", "a3")
    assert found["clip3"] not in (digest(audio[:2], "q3", "a3"), digest(audio + 2**-15, "q3", "a3"))
    assert found["clip3"] not in (digest(audio, "q3", "a"), digest(audio, "q", "a3"))


def test_ours_and_plain_webdataset_hand_over_all_clips(shards: Path, tmp_path: Path) -> None:
    expected = expected_digests(shards)
    assert len(expected) == N_CLIPS
    webdataset.convert(shards, tmp_path / "w")
    for module, folder in ((ours, shards), (webdataset, tmp_path / "w")):
        batches = module.batches(folder, 2, 0)
        assert N_CLIPS <= serve.check(batches, expected)["read"] <= 5 * N_CLIPS
        assert serve.measure(batches, 7, 1)["clips"] == 8


def test_another_clip_or_a_missing_one_fails(shards: Path) -> None:
    expected = expected_digests(shards)
    name = next(iter(expected))
    with pytest.raises(ValueError, match=f"{name} is not what was stored"):
        serve.check(ours.batches(shards, 2, 0), {**expected, name: "other"})
    with pytest.raises(ValueError, match="1 of 21 clips did not come"):
        serve.check(ours.batches(shards, 2, 0), {**expected, "never": "there"})


def test_a_peer_that_cannot_run_is_not_measured(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(loader.PEERS, "nobody", "no_such_loader")
    expected = expected_digests(shards)
    start = partial(Loader, micro_batch=2, seed=0, log_folder=tmp_path)
    names = ["nobody", "webdataset"]
    with ExitStack() as stack:
        python = pythons([], names)
        found = loader.open_peers(names, shards, tmp_path, expected, start, stack, python)
        assert list(found) == ["webdataset"]
        assert found["webdataset"].clips_per_second(4) > 0
        with pytest.raises(LoaderFailed, match="is not what was stored"):
            found["webdataset"].check(dict.fromkeys(expected, "other"))
        rates = loader.measure({"ours": found["webdataset"]}, 4, 1)
    loader.report(rates, names)
    said = capsys.readouterr().out
    assert "loader_over_nobody: NOT MEASURED: ModuleNotFoundError" in said
    assert "FIGURE" not in said


def test_ratios_are_ours_over_a_peer_round_by_round(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"ours": (200.0, 300.0, 400.0), "encoded": (50.0, 60.0, 70.0), "energon": (100.0, 100.0, 500.0)}
    loader.report(rates, ["energon", "lhotse"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FIGURE")]
    assert lines == [
        "FIGURE loader_samples_per_second 300 clips/s",
        "FIGURE loader_encoded_samples_per_second 60 clips/s",
        "FIGURE loader_over_energon 2 ratio",
    ]


def test_a_python_for_one_peer_goes_before_that_for_all(tmp_path: Path) -> None:
    other, third = tmp_path / "python-a", tmp_path / "python-b"
    other.touch()
    third.touch()
    assert pythons([], ["x", "y"]) == dict.fromkeys("xy", sys.executable)
    assert pythons([f"y={third}", str(other)], ["x", "y"]) == {"x": str(other), "y": str(third)}
    for wrong in (f"z={other}", str(tmp_path / "none")):
        with pytest.raises(ConfigError, match="no Python for a peer"):
            pythons([wrong], ["x", "y"])


def test_a_process_answers_line_by_line(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "ours", "serve", str(shards), "--micro-batch", "4"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("measure 4 2\nmeasure 6 0\n"))
    serve.main()
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(serve.ANSWER)]
    assert [json.loads(line.removeprefix(serve.ANSWER))["clips"] for line in answers] == [4, 8]
