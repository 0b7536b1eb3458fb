"""One source file to one clean clip: decode, find damage, mono, 16 kHz, FLAC bytes.

libsndfile reads much that is damaged without a word (a WAV cut in half is simply shorter), so what it does not check is
checked here: promised against present length, emptiness, non-finite samples, web pages saved as audio.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pipeline.errors import AudioError

_BLOCK_FRAMES = 1 << 18
_UNKNOWN_LENGTH_S = 24 * 3600.0
_MPEG_FRAME = 1152
_INT16 = 32768
_LOSSY_FORMATS = ("MP3", "OGG")

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class AudioOptions:
    """What a clip must be. `silence_peak` is the largest |sample| (full scale 1) of a clip that counts as silent."""

    sample_rate_hz: int = 16_000
    min_duration_s: float = 0.1
    max_duration_s: float = 600.0
    silence_peak: float = 1e-4


def load_clip(path: Path, options: AudioOptions, *, start_s: float | None = None, end_s: float | None = None) -> Audio:
    """The audio of `path` (or its window) as mono float32 [T] at `options.sample_rate_hz`.

    Raises:
        AudioError: the file or the window is no usable audio; `state` is the quarantine state.
    """
    start_s = start_s or 0.0
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        raise AudioError(
            "the annotated window is empty or negative", state="bad_annotation", got=f"start {start_s}, end {end_s}"
        )
    _check_container(path)
    audio, rate_hz = _decode_mono(path, start_s, end_s, options.max_duration_s)
    if not len(audio):
        raise AudioError("no audio frames", state="empty")
    if not np.isfinite(audio).all():
        raise AudioError("samples that are not finite numbers")
    duration_s = len(audio) / rate_hz
    if duration_s > options.max_duration_s:
        raise AudioError("longer than allowed", state="too_long", expected=f"<= {options.max_duration_s} s")
    if duration_s < options.min_duration_s:
        raise AudioError(
            "shorter than allowed",
            state="too_short",
            got=f"{duration_s:.3f} s",
            expected=f">= {options.min_duration_s} s",
        )
    if np.abs(audio).max() <= options.silence_peak:
        raise AudioError("silence", state="silent", expected=f"a peak above {options.silence_peak}")
    return soxr.resample(audio, rate_hz, options.sample_rate_hz, quality="HQ").astype(np.float32, copy=False)


def encode_flac(audio: Audio, sample_rate_hz: int) -> bytes:
    """FLAC, 16 bit, mono; the same samples give the same bytes. Samples beyond full scale are clipped.

    16-bit sources that needed no resampling come back bit by bit: their samples are multiples of 1/32768.
    """
    pcm = np.clip(np.rint(audio * _INT16), -_INT16, _INT16 - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(content: bytes) -> tuple[Audio, int]:
    """Samples [T] and sample rate of a FLAC written by `encode_flac`; AudioError when it is damaged."""
    try:
        return soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not a readable FLAC: {error.error_string}") from None


def _check_container(path: Path) -> None:
    """Damage that shows in the first bytes: nothing there, a web page, a RIFF file shorter than it says."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(512)
            if not head:
                raise AudioError("the file has 0 bytes")
            text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
            if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
                raise AudioError("a web page saved under an audio name", hint="download the file again")
            if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
                _check_riff(file, size)
    except FileNotFoundError:
        raise AudioError("no such file", state="missing") from None
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}") from None


def _check_riff(file: BinaryIO, size: int) -> None:
    """Walk the chunks to `data`; its promised end must lie inside the file.

    0 and 0xFFFFFFFF are what a program that writes to a pipe leaves there: the length is unknown then, not wrong. (RF64
    writes 0xFFFFFFFF too, and the real length in the chunk `ds64`.)
    """
    position, long_data_bytes = 12, None
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"ds64" and position + 24 <= size:
            long_data_bytes = struct.unpack("<8xQ", file.read(16))[0]
        if name == b"data":
            promised = long_data_bytes if long_data_bytes is not None else length
            present = size - position - 8
            if promised not in (0, 0xFFFFFFFF) and promised > present:
                raise AudioError(
                    "the WAV file ends early", state="truncated", got=f"{present} bytes", expected=f"{promised} bytes"
                )
            return
        position += 8 + length + length % 2
    raise AudioError("the WAV file ends before its audio", state="truncated")


def _decode_mono(path: Path, start_s: float, end_s: float | None, max_duration_s: float) -> tuple[Audio, int]:
    """Frames from `start_s` to `end_s`, channels averaged, and the file's sample rate.

    Reads in blocks and never trusts the promised length for an allocation: it is an estimate in MP3 and can be absurd
    in Ogg. Stops soon after `max_duration_s`, since the clip is refused then anyway.
    """
    try:
        with _silent_mpg123(path), soundfile.SoundFile(path) as sound:
            rate_hz = sound.samplerate
            first = round(start_s * rate_hz)
            longest = first + int(max_duration_s * rate_hz) + rate_hz
            last = longest if end_s is None else min(round(end_s * rate_hz), longest)
            # Seeking in lossy streams is not exact to the sample: decode and drop instead.
            position = 0 if sound.format in _LOSSY_FORMATS else sound.seek(min(first, sound.frames))
            blocks = []
            while position < last:
                block = sound.read(min(_BLOCK_FRAMES, last - position), dtype="float32", always_2d=True)
                if not len(block):
                    _check_promised(position, sound)
                    break
                if position + len(block) > first:
                    blocks.append(block[max(first - position, 0) :].mean(axis=1))
                position += len(block)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"not decodable: {error.error_string}", hint="convert to wav or flac; m4a, aac and webm are not read"
        ) from None
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate_hz


def _check_promised(decoded: int, sound: soundfile.SoundFile) -> None:
    """The stream ended after `decoded` frames. MP3 lengths are estimates: two MPEG frames or 1 % are let pass."""
    promised = sound.frames
    if promised > _UNKNOWN_LENGTH_S * sound.samplerate:
        return
    slack = max(2 * _MPEG_FRAME, promised // 100) if sound.format in _LOSSY_FORMATS else 0
    if decoded < promised - slack:
        raise AudioError(
            "the stream ends early", state="truncated", got=f"{decoded} frames", expected=f"{promised} frames"
        )


@contextmanager
def _silent_mpg123(path: Path) -> Iterator[None]:
    """libmpg123 writes its warnings straight to file descriptor 2, once a damaged file: keep the console readable."""
    if path.suffix.lower() != ".mp3":
        yield
        return
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
