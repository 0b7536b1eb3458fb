"""Audio files for the decoder's tests: tones in every format, and the ways in which files are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from prep_corpora import noise

TONE_HZ = 440


def tone(seconds: float, rate_hz: int, channels: int = 1) -> NDArray[np.float32]:
    """A sine of half scale, [T] or [T, channels]."""
    mono = (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)
    return mono if channels == 1 else np.repeat(mono[:, None], channels, axis=1)


def staircase(seconds: int, rate_hz: int = 8_000) -> NDArray[np.float32]:
    """Second k is a tone of amplitude (k + 1) / 100: a window's loudness tells where it was cut."""
    return tone(seconds, rate_hz) * np.repeat(np.arange(1, seconds + 1, dtype=np.float32) / 50, rate_hz)


def write(path: Path, samples: NDArray[np.float32], rate_hz: int = 16_000, **how: str) -> Path:
    soundfile.write(path, samples, rate_hz, **how)
    return path


def cut(path: Path, share: float) -> Path:
    """A download that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def patched(path: Path, find: bytes, skip: int, new: bytes) -> Path:
    """Other bytes at `skip` behind the first `find`."""
    content = bytearray(path.read_bytes())
    at = content.index(find) + skip
    content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


def holed(path: Path, n_bytes: int = 400) -> Path:
    """Zeros in the middle: a disk or transfer error."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + n_bytes] = bytes(n_bytes)
    path.write_bytes(content)
    return path


def open_ended_flac(path: Path, samples: NDArray[np.float32], rate_hz: int) -> Path:
    """As an encoder leaves it that writes to a pipe: STREAMINFO's total (the last 36 bits of bytes 10-17) is 0."""
    write(path, samples, rate_hz, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


def ogg_without_last_page(path: Path, samples: NDArray[np.float32], rate_hz: int, subtype: str) -> Path:
    """An Ogg of whole pages, none of which carries the end-of-stream flag: a stream that was recorded in the middle."""
    content = write(path, samples, rate_hz, format="OGG", subtype=subtype).read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    return path


# name -> (what makes the file, the state it must end in)
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "half wav": (lambda p: cut(write(p, noise(1.0), format="WAV"), 0.5), "truncated"),
    "nearly whole wav": (lambda p: cut(write(p, noise(1.0), format="WAV"), 0.999), "truncated"),
    "half 24-bit wav": (lambda p: cut(write(p, noise(1.0), format="WAV", subtype="PCM_24"), 0.5), "truncated"),
    "half rf64": (lambda p: cut(write(p, noise(1.0), format="RF64"), 0.5), "truncated"),
    "half w64": (lambda p: cut(write(p, noise(1.0), format="W64"), 0.5), "truncated"),
    "half aiff": (lambda p: cut(write(p, noise(1.0), format="AIFF"), 0.5), "truncated"),
    "half caf": (lambda p: cut(write(p, noise(1.0), format="CAF"), 0.5), "truncated"),
    "half au": (lambda p: cut(write(p, noise(1.0), format="AU"), 0.5), "truncated"),
    "half flac": (lambda p: cut(write(p, noise(2.0), format="FLAC"), 0.5), "truncated"),
    "flac without its end": (lambda p: cut(write(p, noise(2.0), format="FLAC"), 0.999), "truncated"),
    "half ogg vorbis": (lambda p: cut(write(p, noise(2.0), format="OGG"), 0.5), "truncated"),
    "half ogg opus": (lambda p: cut(write(p, noise(2.0), format="OGG", subtype="OPUS"), 0.5), "truncated"),
    "half mp3": (lambda p: cut(write(p, noise(2.0, 44_100), 44_100, format="MP3"), 0.5), "truncated"),
    "mp3 that is all tag": (lambda p: p.write_bytes(b"ID3\4\0\0\0\0\x10\0" + bytes(200)), "truncated"),
    "wav header only in part": (lambda p: p.write_bytes(write(p, noise(1.0), format="WAV").read_bytes()[:30]),
                                "truncated"),
    "flac with a hole": (lambda p: holed(write(p, noise(4.0), format="FLAC")), "unreadable"),
    "0 bytes": (lambda p: p.write_bytes(b""), "unreadable"),
    "web page": (lambda p: p.write_bytes(b"\xef\xbb\xbf\n <!DOCTYPE html><html>404</html>"), "unreadable"),
    "latin-1 web page": (lambda p: p.write_bytes(b"<html>caf\xe9</html>"), "unreadable"),
    "json message": (lambda p: p.write_bytes(b'{"error": "quota"}'), "unreadable"),
    "plain text": (lambda p: p.write_bytes("Zu viele Zugriffe, bitte später. ".encode() * 40), "unreadable"),
    "four letters": (lambda p: p.write_bytes(b"RIFF"), "unreadable"),
    "random bytes": (lambda p: p.write_bytes(np.random.default_rng(5).bytes(5_000)), "unreadable"),
    "zero bytes all over": (lambda p: p.write_bytes(bytes(5_000)), "unreadable"),
    "header without frames": (lambda p: write(p, noise(0.0), format="WAV"), "empty"),
    "short": (lambda p: write(p, noise(0.05), format="WAV"), "too_short"),
    "silent": (lambda p: write(p, np.zeros(16_000, np.float32), format="WAV"), "silent"),
    "not a number": (lambda p: write(p, _with(noise(1.0), np.nan), format="WAV", subtype="FLOAT"), "unreadable"),
    "infinite": (lambda p: write(p, _with(noise(1.0), np.inf), format="WAV", subtype="FLOAT"), "unreadable"),
    "absurd rate": (lambda p: patched(write(p, noise(1.0), format="WAV"), b"fmt ", 12, struct.pack("<I", 2**31 - 1)),
                    "unreadable"),
    "absurd page length": (lambda p: patched(write(p, noise(1.0), format="OGG"), b"OggS", 26, b"\xff"), "unreadable"),
}  # fmt: skip


def _with(samples: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    samples[500] = value
    return samples
