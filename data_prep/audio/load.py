"""One source file to clean windows of audio: decode, find damage, mono, 16 kHz; and to FLAC bytes.

Long recordings are cut, since encoders of the Whisper kind see 30 seconds and drop what is beyond without a word: what
a clip holds should be what a model hears. `first` is the default because it is what those encoders do to an uncut file,
so that published answers are met by the audio they were tried on, and because it reads 30 s of an 18-hour file.
"""

from __future__ import annotations

import io
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from data_prep.archives.sources import open_source
from data_prep.audio.containers import check_container
from data_prep.audio.streams import Stream, open_stream, quiet_stderr
from data_prep.audio.windows import NEEDS_LENGTH, POLICIES, choose_spans, refuse_long
from pipeline.errors import AudioError, ConfigError

_BLOCK_SAMPLES = 1 << 20
_INT16 = 32768
# libFLAC level 5 of 8. Against level 0 it costs 0.15 ms more for 10 s and saves an eighth of the bytes; level 8 costs
# twice the time for 3 % more. Stated, so that another default of soundfile does not change the bytes.
_FLAC_LEVEL = 5 / 8
_FOREVER_S = 1e9
# Windows of a long clip that are left out, unless all are: then this is the state of the clip.
_LEFT_OUT = ("silent", "empty", "too_short")
_MAY_BE_MPEG = ("MP3", "other")

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class AudioOptions:
    """What a clip must be.

    A clip longer than `window_s` is cut by the policy `long_clips` (see `data_prep.audio.windows`); `keep` leaves it
    whole up to `max_duration_s`, `refuse` does not take it. `channels` are averaged, or the first one is taken.
    `silence_peak` is the largest |sample| (full scale 1) of a window that counts as silent.

    Raises:
        ConfigError: a value is out of range.
    """

    sample_rate_hz: int = 16_000
    min_duration_s: float = 0.1
    max_duration_s: float = 600.0
    silence_peak: float = 1e-4
    long_clips: Literal["first", "center", "split", "keep", "refuse"] = "first"
    window_s: float = 30.0
    max_windows: int = 4
    channels: Literal["mean", "first"] = "mean"

    def __post_init__(self) -> None:
        checks = {
            "sample_rate_hz": (1_000 <= self.sample_rate_hz <= 192_000, "1000 to 192000"),
            "min_duration_s": (0 <= self.min_duration_s < float("inf"), ">= 0"),
            "max_duration_s": (
                self.min_duration_s < self.max_duration_s < float("inf"),
                f"> min_duration_s {self.min_duration_s}",
            ),
            "silence_peak": (0 <= self.silence_peak < 1, "0 to 1"),
            "long_clips": (self.long_clips in POLICIES, " ".join(POLICIES)),
            "window_s": (
                self.min_duration_s < self.window_s < float("inf"),
                f"> min_duration_s {self.min_duration_s}",
            ),
            "max_windows": (self.max_windows >= 1, ">= 1"),
            "channels": (self.channels in ("mean", "first"), "mean first"),
        }
        for name, (is_good, expected) in checks.items():
            if not is_good:
                raise ConfigError(
                    "an option is out of range", where={"option": name}, got=getattr(self, name), expected=expected
                )


@dataclass(frozen=True)
class Window:
    """`start_s` from the start of the file; `audio` mono float32 [T] at the wanted sample rate."""

    start_s: float
    audio: Audio


@dataclass(frozen=True)
class Loaded:
    """The windows of a clip, at least one. The rest is of the source file; `duration_s` None: not known."""

    windows: tuple[Window, ...]
    duration_s: float | None
    sample_rate_hz: int
    channels: int


def load_windows(
    path: Path, options: AudioOptions, *, start_s: float | None = None, end_s: float | None = None
) -> Loaded:
    """The windows of a file or archive member, or of its stretch from `start_s` to `end_s`.

    Only what is needed is decoded: formats that can seek exactly are not read before a window, none behind the last.

    Raises:
        AudioError: the file or the stretch is no usable audio; `state` is the quarantine state.
    """
    start_s = start_s or 0.0
    if not (0 <= start_s < (_FOREVER_S if end_s is None else end_s) <= _FOREVER_S):
        raise AudioError(
            "the annotated window is empty or negative", state="bad_annotation", got=f"start {start_s}, end {end_s}"
        )
    with open_source(path) as file:
        container = check_container(file)
        with quiet_stderr() if container in _MAY_BE_MPEG else nullcontext():
            return _load(file, options, start_s, end_s)


def encode_flac(audio: Audio, sample_rate_hz: int) -> bytes:
    """FLAC, 16 bit, mono; the same samples give the same bytes. Samples beyond full scale are clipped.

    16-bit sources that needed no resampling come back bit by bit: their samples are multiples of 1/32768.
    """
    pcm = np.clip(np.rint(audio * _INT16), -_INT16, _INT16 - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate_hz, format="FLAC", subtype="PCM_16", compression_level=_FLAC_LEVEL)
    return buffer.getvalue()


def decode_flac(content: bytes) -> tuple[Audio, int]:
    """Samples [T] and sample rate of a FLAC written by `encode_flac`; AudioError when it is damaged."""
    try:
        return soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not a readable FLAC: {error.error_string}") from None


def _load(file: BinaryIO, options: AudioOptions, start_s: float, end_s: float | None) -> Loaded:
    with open_stream(file) as stream:
        if stream.frames is not None or options.long_clips not in NEEDS_LENGTH:
            return _cut(stream, stream.frames, options, start_s, end_s)
        length = _count_frames(stream)
    with open_stream(file) as stream:
        return _cut(stream, length, options, start_s, end_s)


def _cut(stream: Stream, length: int | None, options: AudioOptions, start_s: float, end_s: float | None) -> Loaded:
    """The windows of a stream of `length` frames (None: not known), checked and resampled one by one."""
    rate_hz = stream.sample_rate_hz
    start, stop = round(start_s * rate_hz), length
    if end_s is not None:
        stop = round(end_s * rate_hz) if length is None else min(round(end_s * rate_hz), length)
    keeps_whole = options.long_clips in ("keep", "refuse")
    limit = round((options.max_duration_s if options.long_clips == "keep" else options.window_s) * rate_hz)
    if keeps_whole and stop is not None and stream.can_seek:
        refuse_long(stop - start, limit, rate_hz)
    spans = choose_spans(
        options.long_clips,
        start,
        stop,
        window=limit,
        max_windows=options.max_windows,
        shortest=math.ceil(options.min_duration_s * rate_hz),
    )
    reader = _Reader(stream, options.channels)
    windows: list[Window] = []
    problems: list[AudioError] = []
    for first, last in spans:
        audio = reader.take(first, last)
        if keeps_whole:
            refuse_long(len(audio), limit, rate_hz)
        try:
            _check_sound(audio, rate_hz, options)
        except AudioError as error:
            if error.state not in _LEFT_OUT:
                raise
            problems.append(error)
            continue
        resampled = soxr.resample(audio, rate_hz, options.sample_rate_hz, quality="HQ")
        windows.append(Window(first / rate_hz, resampled.astype(np.float32, copy=False)))
    if not windows:
        raise problems[0]
    if reader.has_ended:
        length = reader.position
    return Loaded(tuple(windows), None if length is None else length / rate_hz, rate_hz, stream.channels)


def _check_sound(audio: Audio, rate_hz: int, options: AudioOptions) -> None:
    if not len(audio):
        raise AudioError("no audio frames", state="empty")
    # Whatever is not finite shows in the extremes, so one pass each finds silence too.
    peak = np.maximum(audio.max(), -audio.min())
    if not np.isfinite(peak):
        raise AudioError("samples that are not finite numbers")
    duration_s = len(audio) / rate_hz
    if duration_s < options.min_duration_s:
        raise AudioError(
            "shorter than allowed",
            state="too_short",
            got=f"{duration_s:.3f} s",
            expected=f">= {options.min_duration_s} s",
        )
    if peak <= options.silence_peak:
        raise AudioError("silence", state="silent", expected=f"a peak above {options.silence_peak}")


class _Reader:
    """Stretches of a stream as mono, in order, block by block: no promised length is trusted for an allocation."""

    def __init__(self, stream: Stream, channels: str) -> None:
        self._stream, self._channels = stream, channels
        self.position, self.has_ended = 0, False

    def take(self, first: int, last: int) -> Audio:
        """Frames [first, last), fewer where the stream ends, channels mixed. What lies before is skipped.

        Raises:
            AudioError: `truncated` when the stream ends before its promised end.
        """
        stream = self._stream
        if stream.can_seek and first != self.position:
            self.position = min(first, stream.frames or 0)
            stream.seek(self.position)
        blocks = []
        while self.position < last and not self.has_ended:
            block = stream.read(min(_block_frames(stream), last - self.position))
            if not len(block):
                self.has_ended = True
                self._check_promised()
            elif self.position + len(block) > first:
                blocks.append(_mono(block[max(first - self.position, 0) :], self._channels))
            self.position += len(block)
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _check_promised(self) -> None:
        promised = self._stream.frames
        if promised is not None and self.position < promised - self._stream.slack:
            raise AudioError(
                "the stream ends early",
                state="truncated",
                got=f"{self.position} frames",
                expected=f"{promised} frames",
            )


def _mono(block: NDArray[Any], channels: str) -> Audio:
    """[T, C] to [T] float32, full scale 1. Adding columns is many times faster than numpy's mean over a short axis."""
    full_scale = _INT16 if block.dtype == np.int16 else 1
    values = block.astype(np.float32, copy=False)
    mono = values[:, 0].copy()
    n_mixed = 1 if channels == "first" else values.shape[1]
    for channel in range(1, n_mixed):
        mono += values[:, channel]
    if n_mixed * full_scale != 1:
        mono *= np.float32(1 / (n_mixed * full_scale))
    return mono


def _count_frames(stream: Stream) -> int:
    """The length of a stream that promises none: decode it and keep nothing."""
    length = 0
    while n_frames := len(stream.read(_block_frames(stream))):
        length += n_frames
    return length


def _block_frames(stream: Stream) -> int:
    return max(1, _BLOCK_SAMPLES // stream.channels)
