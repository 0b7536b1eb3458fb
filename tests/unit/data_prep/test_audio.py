"""Decoding: every kind of damage ends in its state, every good format in the same sound."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from prep_corpora import noise

from data_prep.audio import AudioOptions, decode_flac, encode_flac, load_clip
from pipeline.errors import AudioError

OPTIONS = AudioOptions()


def state_of(path: Path, **window: float) -> str:
    with pytest.raises(AudioError) as caught:
        load_clip(path, OPTIONS, **window)
    return caught.value.state


def sine(seconds: float, rate_hz: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate_hz: int = 16_000, **how: str) -> Path:
    soundfile.write(path, samples, rate_hz, **how)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize(
    ("name", "rate_hz", "how"),
    [
        ("a.wav", 16_000, {"subtype": "PCM_16"}),
        ("a.wav", 44_100, {"subtype": "PCM_24"}),
        ("a.wav", 8_000, {"subtype": "FLOAT"}),
        ("a.wav", 22_050, {"subtype": "PCM_U8"}),
        ("a.flac", 48_000, {"subtype": "PCM_24"}),
        ("a.ogg", 44_100, {"subtype": "VORBIS"}),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", 44_100, {}),
        ("a.w64", 32_000, {}),
    ],
)
def test_good_formats_give_the_same_sound(tmp_path: Path, name: str, rate_hz: int, how: dict[str, str]) -> None:
    tone = sine(1.0, rate_hz)
    path = write(tmp_path / name, np.stack([tone, tone], axis=1), rate_hz, **how)
    audio = load_clip(path, OPTIONS)
    assert audio.dtype == np.float32
    assert len(audio) == pytest.approx(16_000, abs=16)
    spectrum = np.abs(np.fft.rfft(audio[2_000:14_000]))
    assert abs(np.argmax(spectrum) * 16_000 / 12_000 - 440) < 2
    assert np.abs(audio[2_000:14_000]).max() == pytest.approx(0.5, abs=0.04)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(0.5, seed=1), noise(0.5, seed=2)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load_clip(path, OPTIONS), (left + right) / 2, atol=1e-6)


def test_16_bit_source_comes_back_bit_by_bit(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 8_000).astype(np.int16)
    audio = load_clip(write(tmp_path / "a.wav", pcm), OPTIONS)
    flac = encode_flac(audio, 16_000)
    assert flac == encode_flac(audio, 16_000)
    assert np.array_equal(soundfile.read(io.BytesIO(flac), dtype="int16")[0], pcm)


def test_samples_beyond_full_scale_are_clipped_not_wrapped() -> None:
    samples, rate_hz = decode_flac(encode_flac(np.array([1.7, -1.7, 0.25] * 100, np.float32), 16_000))
    assert rate_hz == 16_000
    assert samples[:3] == pytest.approx([32767 / 32768, -1.0, 0.25])


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.mp3"])
def test_window(tmp_path: Path, name: str) -> None:
    silence, tone = np.zeros(44_100, np.float32), sine(1.0, 44_100)
    path = write(tmp_path / name, np.concatenate([silence, tone, silence]), 44_100)
    audio = load_clip(path, OPTIONS, start_s=1.1, end_s=1.9)
    assert len(audio) == pytest.approx(0.8 * 16_000, abs=2)
    assert np.abs(audio[:200]).max() > 0.4 and np.abs(audio[-200:]).max() > 0.4
    assert state_of(path, start_s=0.1, end_s=0.6) == "silent"
    assert state_of(path, start_s=50.0, end_s=51.0) == "empty"
    assert state_of(path, start_s=2.0, end_s=1.0) == "bad_annotation"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_cut_wav_is_truncated(tmp_path: Path, subtype: str, share: float) -> None:
    assert state_of(cut(write(tmp_path / "a.wav", noise(1.0), subtype=subtype), share)) == "truncated"


def test_cut_rf64_and_cut_header(tmp_path: Path) -> None:
    assert state_of(cut(write(tmp_path / "a.wav", noise(1.0), format="RF64"), 0.5)) == "truncated"
    header = write(tmp_path / "b.wav", noise(1.0))
    header.write_bytes(header.read_bytes()[:30])
    assert state_of(header) == "truncated"


def test_wav_of_unknown_length_and_with_trailing_chunk_is_good(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.wav", noise(1.0)).read_bytes())
    streamed = bytearray(content)
    data = streamed.index(b"data")
    streamed[4:8] = streamed[data + 4 : data + 8] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "streamed.wav").write_bytes(streamed)
    (tmp_path / "trailing.wav").write_bytes(bytes(content) + b"LIST" + struct.pack("<I", 4) + b"INFO")
    for name in ("streamed.wav", "trailing.wav"):
        assert len(load_clip(tmp_path / name, OPTIONS)) == 16_000


def test_cut_mp3_is_truncated_and_keeps_the_console_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert state_of(cut(write(tmp_path / "a.mp3", noise(2.0, 44_100), 44_100), 0.5)) == "truncated"
    assert capfd.readouterr().err == ""


def test_damaged_flac_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(2.0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    assert state_of(path) == "unreadable"
    assert state_of(cut(write(tmp_path / "b.flac", noise(2.0)), 0.5)) == "unreadable"


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>404</html>", b"\xef\xbb\xbf\n <html>", b"plain text", b"RIFF"]
)
def test_what_is_no_audio_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert state_of(tmp_path / "a.wav") == "unreadable"


def test_web_page_and_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"<html>gone</html>")
    with pytest.raises(AudioError, match="web page"):
        load_clip(tmp_path / "a.wav", OPTIONS)
    assert state_of(tmp_path / "none.wav") == "missing"
    assert state_of(tmp_path) == "unreadable"


def test_zero_frames_short_long_silent_and_non_finite(tmp_path: Path) -> None:
    assert state_of(write(tmp_path / "empty.wav", noise(0.0))) == "empty"
    assert state_of(write(tmp_path / "short.wav", noise(0.05))) == "too_short"
    assert state_of(write(tmp_path / "silent.wav", np.zeros(16_000))) == "silent"
    broken = noise(1.0)
    broken[500] = np.nan
    assert state_of(write(tmp_path / "nan.wav", broken, subtype="FLOAT")) == "unreadable"
    with pytest.raises(AudioError) as caught:
        load_clip(write(tmp_path / "long.wav", noise(3.0)), AudioOptions(max_duration_s=1.0))
    assert caught.value.state == "too_long"
