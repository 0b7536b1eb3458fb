"""Objects of a JSON array one by one, in bounded memory: OpenAQA is one list of 5.7 million objects in 2.3 GB."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import CorpusError

CHUNK_BYTES = 1 << 20
# An object longer than this is a broken file, not a long answer; without the bound it would be read to its end.
MAX_OBJECT_CHARS = 16 << 20


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


def read_object(file: BinaryIO, offset: int, size: int) -> dict[str, Any]:
    """The object that `stream_objects` found at `offset`."""
    file.seek(offset)
    value: dict[str, Any] = json.loads(file.read(size))
    return value


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
                    raise self.error(error.msg) from None
                self._refill()
                continue
            if end == len(self._text) and not self._ended:
                self._refill()  # a number may go on in the next chunk
                continue
            offset = self._byte
            self._advance(end)
            return offset, self._byte - offset, value

    def error(self, what: str) -> CorpusError:
        return CorpusError(
            f"an annotation file cannot be read: {what}",
            where={"file": self._path, "byte": self._byte},
            expected="one JSON array of objects",
            hint="download it again; a cut download looks like this",
        )

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
