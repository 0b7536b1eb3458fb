"""Decoders behind one interface: libsndfile, and PyAV (FFmpeg) for the formats that libsndfile does not know."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.errors import AudioError

_UNKNOWN_LENGTH_S = 24 * 3600.0
_RATES_HZ = range(1_000, 1_000_001)
_LOSSY = ("MP3", "OGG")
_LOSSY_CODECS = ("MPEG", "VORBIS", "OPUS")
_MPEG_FRAME = 1152
# libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING.
_NOT_MINE = (1, 4)
_MOST_AV_CHANNELS = 8
_CONVERT = "convert to wav or flac"


class Stream(Protocol):
    """Decoded audio, read forward.

    `frames` is the length that the file promises, None when it promises none; `slack` is how many frames fewer a whole
    file may have. Only with `can_seek` is `seek` there, and exact to the frame.
    """

    sample_rate_hz: int
    channels: int
    frames: int | None
    slack: int
    can_seek: bool

    def read(self, n_frames: int) -> NDArray[Any]:
        """The next frames [n, channels], fewer at the end; float32, or int16 where the source is that."""
        ...

    def seek(self, frame: int) -> None: ...


@contextmanager
def open_stream(file: BinaryIO) -> Iterator[Stream]:
    """The audio of an open file, from its start.

    Raises:
        AudioError: no decoder knows it, or it is damaged (also while reading).
    """
    file.seek(0)
    # libsndfile reads a file by its descriptor itself; one in memory it reads through Python.
    descriptor = _descriptor(file)
    try:
        sound = soundfile.SoundFile(file if descriptor is None else descriptor, closefd=False)
    except soundfile.LibsndfileError as error:
        if error.code not in _NOT_MINE:
            raise _not_decodable(error) from None
    else:
        with sound:
            yield _SndfileStream(sound, file)
        return
    file.seek(0)
    with _open_av(file) as stream:
        yield stream


class _SndfileStream:
    def __init__(self, sound: soundfile.SoundFile, file: BinaryIO) -> None:
        self._sound, self._file = sound, file
        self.sample_rate_hz, self.channels = sound.samplerate, sound.channels
        _check_rate(self.sample_rate_hz)
        # Ogg and FLAC written to a pipe promise nothing, or absurdly much.
        is_known = sound.frames <= _UNKNOWN_LENGTH_S * sound.samplerate
        self.frames = sound.frames if is_known else None
        is_lossy = sound.format in _LOSSY or sound.subtype.startswith(_LOSSY_CODECS)
        # MP3 lengths are estimates: two MPEG frames or 1 % are let pass.
        self.slack = max(2 * _MPEG_FRAME, sound.frames // 100) if is_lossy and is_known else 0
        self.can_seek = is_known and not is_lossy
        self._has_ended = False

    def seek(self, frame: int) -> None:
        try:
            self._sound.seek(frame)
        except soundfile.LibsndfileError as error:
            raise self._damage(error) from None

    def read(self, n_frames: int) -> NDArray[Any]:
        if self.frames is None and self._sound.format == "FLAC":
            return self._read_open_end(n_frames)
        dtype = "int16" if self._sound.subtype == "PCM_16" else "float32"
        try:
            return self._sound.read(n_frames, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._damage(error) from None

    def _read_open_end(self, n_frames: int) -> NDArray[Any]:
        """A FLAC that promises no length raises an error at its end, however whole it is.

        The error hides how many frames came; decoded FLAC is never NaN, so what is left of that shows it.
        """
        block = np.full((0 if self._has_ended else n_frames, self.channels), np.nan, np.float32)
        try:
            return self._sound.read(out=block) if len(block) else block
        except soundfile.LibsndfileError as error:
            if not self._is_file_used_up():
                raise self._damage(error) from None
            self._has_ended = True
            return block[: int(np.count_nonzero(~np.isnan(block[:, -1])))]

    def _damage(self, error: soundfile.LibsndfileError) -> AudioError:
        if self._sound.format == "FLAC" and self._is_file_used_up():
            return AudioError("the FLAC file ends early", state="truncated", expected=f"{self.frames} frames")
        return _not_decodable(error)

    def _is_file_used_up(self) -> bool:
        return self._file.tell() == self._file.seek(0, io.SEEK_END)


class _AvStream:
    """One decoder for each packet; FFmpeg itself drops the silence that encoders put before the sound."""

    can_seek = False

    def __init__(self, container: Any, av: Any) -> None:
        self._av = av
        self._blocks = self._decode(container)
        self._rest: NDArray[np.float32] = np.empty((0, 1), np.float32)
        self.sample_rate_hz = self.channels = 0
        self._rest = next(self._blocks, self._rest)
        if not len(self._rest):
            raise AudioError("no audio frames", state="empty")
        # Of a raw AAC stream FFmpeg only guesses the length.
        is_known = container.duration is not None and container.format.name != "aac"
        self.frames = int(container.duration * self.sample_rate_hz / av.time_base) if is_known else None
        self.slack = max(2 * _MPEG_FRAME, (self.frames or 0) // 100)

    def seek(self, frame: int) -> None:
        raise AssertionError("not exact in lossy formats")

    def read(self, n_frames: int) -> NDArray[Any]:
        try:
            while not len(self._rest):
                self._rest = next(self._blocks)
        except StopIteration:
            return self._rest
        block, self._rest = self._rest[:n_frames], self._rest[n_frames:]
        return block

    def _check_kind(self, rate_hz: int, channels: int) -> None:
        """Every frame is of the kind of the first one; more channels than FFmpeg's frames point to crash PyAV."""
        if not self.channels:
            _check_rate(rate_hz)
            self.sample_rate_hz, self.channels = rate_hz, channels
        if (rate_hz, channels) != (self.sample_rate_hz, self.channels) or channels > _MOST_AV_CHANNELS:
            raise AudioError(
                "the kind of audio changes within the stream, or is absurd", got=f"{channels} channels at {rate_hz} Hz"
            )

    def _decode(self, container: Any) -> Iterator[NDArray[np.float32]]:
        to_float = self._av.AudioResampler(format="fltp")
        try:
            for frame in container.decode(audio=0):
                self._check_kind(frame.sample_rate, frame.layout.nb_channels)
                for block in to_float.resample(frame):
                    yield block.to_ndarray().T
        except (self._av.FFmpegError, ValueError) as error:
            raise AudioError(f"not decodable: {error}", hint=_CONVERT) from None


@contextmanager
def _open_av(file: BinaryIO) -> Iterator[_AvStream]:
    try:
        import av
    except ImportError:
        raise AudioError(
            "libsndfile does not know this format",
            hint=f"{_CONVERT}, or: pip install 'audio-gst[media]' (reads m4a, aac, webm)",
        ) from None
    try:
        container = av.open(file, mode="r", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"neither libsndfile nor FFmpeg knows this format: {error}", hint=_CONVERT) from None
    with container:
        codec = container.streams.audio[0].codec_context if container.streams.audio else None
        if codec is None:
            raise AudioError("no audio track that FFmpeg can decode", hint=_CONVERT)
        codec.thread_count = 1
        yield _AvStream(container, av)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """libmpg123 writes its warnings straight to file descriptor 2, once a damaged file: keep the console readable."""
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _descriptor(file: BinaryIO) -> int | None:
    try:
        return file.fileno()
    except OSError:  # a file in memory
        return None


def _not_decodable(error: soundfile.LibsndfileError) -> AudioError:
    return AudioError(f"not decodable: {error.error_string}", hint=_CONVERT)


def _check_rate(rate_hz: int) -> None:
    if rate_hz not in _RATES_HZ:
        raise AudioError("an absurd sample rate", got=f"{rate_hz} Hz")
