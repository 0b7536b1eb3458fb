"""Damage that shows in a file's bytes, before any decoding.

libsndfile reads much that is damaged without a word: a WAV cut in half is simply shorter. So what a container promises
is compared with what is there. Layouts: Microsoft RIFF and EBU Tech 3306 (RF64), Sony W64, Apple AIFF and CAF
specifications, RFC 3533 (Ogg), id3.org (ID3v2).
"""

from __future__ import annotations

import codecs
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import AudioError

_HEAD_BYTES = 512
_OGG_HEADER_BYTES = 27
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
# What programs that write to a pipe leave in the length (0xFFFFFFFF; sox and espeak 0x7FFFF000): unknown, not wrong.
_UNKNOWN_LENGTHS = (range(0x7FFFF000, 0x80000000), range(0xFFFFF000, 0x100000000))
_UNKNOWN_LONG_LENGTH = 2**62


@dataclass(frozen=True)
class _Layout:
    """Chunks of a name and a length, one of which, `sound`, is the audio."""

    name: str
    first: int
    header: struct.Struct
    sound: bytes
    align: int = 2
    length_counts_header: bool = False


_WAV = _Layout("WAV", 12, struct.Struct("<4sI"), b"data")
_WAV_BIG_ENDIAN = _Layout("WAV", 12, struct.Struct(">4sI"), b"data")
_AIFF = _Layout("AIFF", 12, struct.Struct(">4sI"), b"SSND")
_CAF = _Layout("CAF", 8, struct.Struct(">4sq"), b"data", align=1)
_W64 = _Layout("W64", 40, struct.Struct("<16sq"), b"data" + _W64_TAIL, align=8, length_counts_header=True)
_LAYOUTS = {
    (b"RIFF", b"WAVE"): _WAV,
    (b"RF64", b"WAVE"): _WAV,
    (b"RIFX", b"WAVE"): _WAV_BIG_ENDIAN,
    (b"FORM", b"AIFF"): _AIFF,
    (b"FORM", b"AIFC"): _AIFF,
}


def check_container(file: BinaryIO) -> str:
    """Name of the container ("WAV", "OGG", ... or "other"); the file is at its start before and after.

    Raises:
        AudioError: `unreadable` for an empty file or for text, `truncated` for one that ends before its promised end.
    """
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if not head:
        raise AudioError("the file has 0 bytes")
    name, check = _kind(head)
    if check is not None:
        check(file, head, n_bytes)
    elif name == "other":
        _refuse_text(head)
    file.seek(0)
    return name


_Check = Callable[[BinaryIO, bytes, int], None]


def _kind(head: bytes) -> tuple[str, _Check | None]:
    """The container that a file begins like, and how to check it."""
    layout = _LAYOUTS.get((head[:4], head[8:12]))
    if head[:4] == b"caff":
        layout = _CAF
    if head[:4] == b"riff" and head[24:28] == b"wave":
        layout = _W64
    if layout is not None:
        return layout.name, lambda file, _, n_bytes: _check_chunks(file, n_bytes, layout)
    if head[:4] in (b".snd", b"dns."):
        return "AU", _check_au
    if head[:4] == b"OggS":
        return "OGG", _check_ogg
    if head[:3] == b"ID3":
        return "MP3", _check_id3
    if head[:4] == b"fLaC":
        return "FLAC", None
    # MPEG audio: eleven bits set, then a layer that is not 0 (which AAC has there).
    is_mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0
    return ("MP3" if is_mpeg else "other"), None


def _check_chunks(file: BinaryIO, n_bytes: int, layout: _Layout) -> None:
    """Walk the chunks to the audio; its promised end must lie inside the file."""
    long_length = None
    for name, start, length in _chunks(file, n_bytes, layout):
        if name == b"ds64" and start + 16 <= n_bytes:  # RF64: the real length, where the 32-bit one says 0xFFFFFFFF
            file.seek(start)
            long_length = struct.unpack("<8xQ", file.read(16))[0]
        if name == layout.sound:
            promised = length if long_length is None else long_length
            is_marked = long_length is None and any(promised in lengths for lengths in _UNKNOWN_LENGTHS)
            if 0 <= promised < _UNKNOWN_LONG_LENGTH and not is_marked:
                _refuse_cut(layout.name, n_bytes - start, promised)
            return
    raise AudioError(f"the {layout.name} file ends before its audio", state="truncated")


def _chunks(file: BinaryIO, n_bytes: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of the content of each chunk."""
    position, header_bytes = layout.first, layout.header.size
    while position + header_bytes <= n_bytes:
        file.seek(position)
        name, length = layout.header.unpack(file.read(header_bytes))
        if layout.length_counts_header:
            length -= header_bytes
        yield name, position + header_bytes, length
        position += header_bytes + max(length, 0)
        position += -position % layout.align


def _refuse_cut(name: str, present: int, promised: int) -> None:
    if promised > present:
        raise AudioError(
            f"the {name} file ends early", state="truncated", got=f"{present} bytes", expected=f"{promised} bytes"
        )


def _check_au(file: BinaryIO, head: bytes, n_bytes: int) -> None:
    if len(head) < 12:
        raise AudioError("the AU file ends inside its header", state="truncated")
    offset, promised = struct.unpack(">4xII" if head[:4] == b".snd" else "<4xII", head[:12])
    if promised != 0xFFFFFFFF:
        _refuse_cut("AU", n_bytes - offset, promised)


def _check_ogg(file: BinaryIO, head: bytes, n_bytes: int) -> None:
    """The last page must be whole. Whether it carries the end-of-stream flag says nothing: many writers forget it."""
    file.seek(max(0, n_bytes - _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return
    header = tail[page : page + _OGG_HEADER_BYTES]
    is_cut = len(header) < _OGG_HEADER_BYTES
    if not is_cut:
        segments = tail[page + _OGG_HEADER_BYTES : page + _OGG_HEADER_BYTES + header[26]]
        is_cut = len(segments) < header[26] or page + _OGG_HEADER_BYTES + header[26] + sum(segments) > len(tail)
    if is_cut:
        raise AudioError("the Ogg file ends inside a page", state="truncated")


def _check_id3(file: BinaryIO, head: bytes, n_bytes: int) -> None:
    """The tag of an MP3 (its length in 7-bit bytes) must not be all that is there."""
    length = 0
    for value in head[6:10]:
        length = length << 7 | value & 0x7F
    if len(head) < 10 or 10 + length >= n_bytes:
        raise AudioError("the MP3 file ends before its audio", state="truncated")


def _refuse_text(head: bytes) -> None:
    """Web pages and messages of servers, saved under an audio name. (NIST SPHERE files begin with text by right.)"""
    try:
        # An incremental decoder does not mind that the last character is cut.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lstrip()
    except UnicodeDecodeError:
        text = head.decode("latin-1").lstrip() if head.lstrip().startswith(b"<") else "\0"
    if text.startswith("NIST_1A") or not all(letter.isprintable() or letter in "\t\r\n\f" for letter in text):
        return
    what = {"<": "a web page", "{": "a JSON message", "[": "a JSON message"}.get(text[:1], "text")
    raise AudioError(f"{what} saved under an audio name", got=repr(text[:60]), hint="download the file again")
