"""Questions about audio files: any format, rate and number of channels; mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.cli.generate import generate, load_answering
from pipeline.data.audio_file import open_audio_file
from pipeline.errors import AudioError, CheckpointError, ModelError
from pipeline.models.tiny import write_tiny_model

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "random"
    texts = [f"What do you hear? {n} tones, a low one." for n in range(20)]
    write_tiny_model("qwen2_audio", texts, out, vocab_size=330, width=32)
    return out


def sweep(rate_hz: int, seconds: float) -> np.ndarray:
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    return 0.4 * np.sin(2 * np.pi * (300 + 500 * t) * t)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_format_is_heard_as_mono_at_the_models_rate(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"clip.{suffix}"
    samples = sweep(44_100, 1.5)
    soundfile.write(file, np.stack([samples, 0.5 * samples], axis=1), 44_100)
    opened = open_audio_file(file)
    heard = opened.read(RATE_HZ, 30)
    wanted = 0.75 * soxr.resample(samples, 44_100, RATE_HZ, quality="HQ")
    assert heard.dtype == np.float32 and opened.duration_s == pytest.approx(1.5, abs=0.1)
    common = min(len(heard), len(wanted))
    assert common >= 1.45 * RATE_HZ
    assert np.corrcoef(heard[:common], wanted[:common])[0, 1] > 0.98


def test_only_the_beginning_is_heard_where_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    soundfile.write(file, sweep(8_000, 3.0), 8_000)
    assert len(open_audio_file(file).read(RATE_HZ, 1.0)) == RATE_HZ


def test_files_that_cannot_be_heard_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.wav", tmp_path / "empty.wav"
    text.write_text("not audio")
    soundfile.write(empty, np.zeros(0), RATE_HZ)
    for file, what in ((tmp_path / "none.wav", "no such"), (text, "not an audio file")):
        with pytest.raises(AudioError, match=what) as caught:
            generate("no/such/model", [file])
        assert caught.value.where["file"] == file
    with pytest.raises(AudioError, match="no audio"):
        open_audio_file(empty).read(RATE_HZ, 30)


def test_every_file_is_answered(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{n}.wav" for n in range(2)]
    for number, file in enumerate(files):
        soundfile.write(file, sweep(8_000, 1.0 + number), 8_000)
    common = {"question": "How high?", "max_new_tokens": 5, "device": "cpu"}
    generate(str(model), files, max_duration_s=1.5, as_json=True, **common)
    answers = json.loads(capsys.readouterr().out)
    assert [(each["file"], each["heard_s"]) for each in answers] == [(str(files[0]), 1.0), (str(files[1]), 1.5)]
    assert all(each["question"] == "How high?" and isinstance(each["answer"], str) for each in answers)
    generate(str(model), files, max_duration_s=1.5, **common)
    lines = capsys.readouterr().out
    assert lines.startswith(f"{files[0]}: {answers[0]['answer']}") and "(of the first 1.5 s of 2)" in lines


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a model"):
        load_answering(str(tmp_path))
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        load_answering(str(tmp_path), "last")
