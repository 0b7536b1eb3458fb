"""Objects of a JSON array one by one, in bounded memory: OpenAQA is one list of 5.7 million objects in 2.3 GB."""

from __future__ import annotations

import codecs
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorpusError

CHUNK_BYTES = 1 << 20
# An object longer than this is a broken file, not a long answer; without the bound it would be read to its end.
MAX_OBJECT_CHARS = 16 << 20
# Text of the groups that are read together; each batch is one sweep through the file.
BATCH_BYTES = 128 << 20


@dataclass(frozen=True)
class JsonItem:
    """One object of the array and the bytes of the file it stands in."""

    offset: int
    size: int
    value: dict[str, Any]


def stream_objects(path: Path, key: str | None = None) -> Iterator[JsonItem]:
    """Objects of the array that is the whole file or, in a file that is an object, its member `key`.

    Raises:
        CorpusError: the file is not UTF-8, no valid JSON, has another shape, or ends early.
    """
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        if reader.peek() == "{" and key is not None:
            _enter_member(reader, key)
        reader.expect("[")
        while reader.peek() != "]":
            if reader.peek() != "{":
                raise reader.error("an array of objects has another item")
            offset, size, value = reader.value()
            yield JsonItem(offset, size, value)
            if reader.peek() != "]":
                reader.expect(",")


class ObjectIndex:
    """Where the objects of each group stand in a file, at 16 bytes an object, so that groups can be read one by one.

    Public files are shuffled: the objects of one group lie anywhere in them. Reading them group by group would seek
    millions of times, so `groups` reads many groups at once, in file order: a few sweeps through the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets, self._sizes, self._group_of = array("Q"), array("I"), array("I")

    def add(self, group: int, item: JsonItem) -> None:
        """`item` belongs to `group`; groups are numbered from 0 without a gap."""
        self._offsets.append(item.offset)
        self._sizes.append(item.size)
        self._group_of.append(group)

    def groups(self, batch_bytes: int = BATCH_BYTES) -> Iterator[list[dict[str, Any]]]:
        """The objects of group 0, 1, 2 ..., each group in file order; holds the text of about `batch_bytes` at a time.

        Raises:
            CorpusError: the file changed since it was indexed.
        """
        if not self._offsets:
            return
        group_of = np.frombuffer(self._group_of, dtype=np.uint32)
        by_group = np.argsort(group_of, kind="stable")
        offsets = np.frombuffer(self._offsets, dtype=np.uint64)[by_group]
        sizes = np.frombuffer(self._sizes, dtype=np.uint32)[by_group]
        n_objects = np.bincount(group_of)
        bytes_until = np.cumsum(sizes, dtype=np.int64)[np.cumsum(n_objects) - 1]
        start = 0
        with open(self._path, "rb") as file:
            for batch in np.split(n_objects, np.flatnonzero(np.diff(bytes_until // batch_bytes)) + 1):
                stop = start + int(batch.sum())
                texts = iter(_read_spans(file, offsets[start:stop], sizes[start:stop]))
                for n in batch.tolist():
                    yield [self._parse(text) for text in islice(texts, n)]
                start = stop

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(text.decode())
        except ValueError:
            raise CorpusError(
                "an annotation file changed while it was read",
                where={"file": self._path},
                hint="start again when no other program writes to it",
            ) from None
        return value


def _read_spans(file: BinaryIO, offsets: NDArray[np.uint64], sizes: NDArray[np.uint32]) -> list[bytes]:
    """The bytes at `offsets`, in the order given; read in file order."""
    texts = [b""] * len(offsets)
    for place in np.argsort(offsets).tolist():
        # Not through the buffer, which would read many times more than one object.
        texts[place] = os.pread(file.fileno(), int(sizes[place]), int(offsets[place]))
    return texts


def _enter_member(reader: _Reader, key: str) -> None:
    """Skip to the value of `key` in the object that starts here."""
    reader.expect("{")
    while reader.peek() != "}":
        name = reader.value()[2]
        reader.expect(":")
        if name == key:
            return
        reader.value()
        if reader.peek() != "}":
            reader.expect(",")
    raise reader.error(f"the object has no member {key!r}")


class _Reader:
    """A window of decoded text that moves through the file and knows the byte offset of its place."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._byte = "", 0, 0
        self._ended = False
        if self.peek() == "\ufeff":
            self._advance(self._at + 1)

    def peek(self) -> str:
        """The next character that is not white space; not consumed."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in " \t\r\n":
                end += 1
            self._advance(end)
            if end < len(self._text):
                return self._text[end]
            if self._ended:
                raise self.error("the file ends early")
            self._refill()

    def expect(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise self.error(f"found {found!r} instead of {character!r}")
        self._advance(self._at + 1)

    def value(self) -> tuple[int, int, Any]:
        """The JSON value that comes next, as (byte offset, bytes, value); consumed."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > MAX_OBJECT_CHARS:
                    raise self.error(error.msg, error.pos) from None
                self._refill()
                continue
            if end == len(self._text) and not self._ended:
                self._refill()  # a number may go on in the next chunk
                continue
            offset = self._byte
            self._advance(end)
            return offset, self._byte - offset, value

    def error(self, what: str, at: int | None = None) -> CorpusError:
        """What is wrong at the present place, or at character `at` of the window."""
        at = self._at if at is None else at
        return CorpusError(
            f"an annotation file cannot be read: {what}",
            where={"file": self._path, "byte": self._byte + len(self._text[self._at : at].encode())},
            expected="one JSON array of objects",
            hint=self._hint(at),
        )

    def _hint(self, at: int) -> str:
        if self._text.startswith("%", at):
            return "JSON has no comments: remove the lines that begin with %"
        with open(self._path, "rb") as file:
            start = file.read(64).lstrip()
        if start.startswith(b"version https://git-lfs"):
            return "this is a pointer, not the file: run `git lfs pull`, or download the file from its hub page"
        if start.startswith(b"<"):
            return "this is a web page, not the file: download it again, logged in where that is needed"
        return "download it again; a cut download looks like this"

    def _advance(self, to: int) -> None:
        passed = self._text[self._at : to]
        self._byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = to

    def _refill(self) -> None:
        chunk = self._file.read(CHUNK_BYTES)
        self._ended = not chunk
        try:
            self._text = self._text[self._at :] + self._decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            raise self.error(f"it is not UTF-8 ({error.reason})") from None
        self._at = 0
