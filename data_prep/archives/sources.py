"""Audio wherever it lies: plain files, members of zip archives, rows of parquet files.

A member has a virtual path: `audios.zip!/audios/000001.wav`, or for a row of a parquet file
`train-0.parquet!/17/rock_Title.wav` (row number, name). So corpora that are published packed (MusicQA, Jamendo-QA,
SoundDescs) need not be unpacked, and the rest of the house goes on handling one path for one clip.

The newest archives stay open, with their list of members, in every process that reads them; a forked child opens its
own, since processes that share a file position read each other's bytes.
"""

from __future__ import annotations

import io
import itertools
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from pipeline.errors import AudioError

# In order of preference when one clip is there in several formats.
AUDIO_SUFFIXES = (".flac", ".wav", ".aiff", ".aif", ".w64", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm")
ARCHIVE_SUFFIXES = (".zip", ".parquet")

_VIRTUAL = re.compile(r"(?P<archive>.+?\.(?:zip|parquet))!/(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_OPEN_ARCHIVES = 32
_MAX_MEMBER_BYTES = 8 * 2**30
# Silence packs 1:1000 by right, so a ratio says something about very large members only.
_BOMB_BYTES, _BOMB_RATIO = 2**30, 200
_IN_MEMORY_BYTES = 256 * 2**20
_ENCRYPTED = 1
_MADE_ON_WINDOWS = 0
_BROKEN = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, ValueError)
_NAME_COLUMNS = ("audio_path", "audio.path", "path", "track_id")


def is_litter(name: str) -> bool:
    """Files and folders that macOS archives and hidden tools leave behind; never part of a corpus."""
    return name.startswith(".") or name == "__MACOSX"


def members(archive: Path) -> Iterator[str]:
    """Virtual paths of the audio in a zip (by name) or parquet file (by row); none when it holds no audio.

    Raises:
        AudioError: the archive is not there, damaged, or one part of a split one.
    """
    place = str(archive)
    return (f"{place}!/{name}" for name in _archive(place).audio_names())


def size_bytes(path: Path) -> int | None:
    """Size of a regular file or of a member, unpacked; None when it is not there.

    For a parquet row it is the mean of its row group, since parquet does not record the size of one value; for a member
    of an archive that cannot be listed it is the archive's: that is damage, which `open_source` names, not absence.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # ValueError: names with NUL or half characters
        return _member_bytes(path)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def open_source(path: Path) -> BinaryIO:
    """The bytes of a file or of a member, seekable, to be closed by the caller.

    Files are not buffered, so that a C library may read on by file descriptor. Members are read and checked whole.

    Raises:
        AudioError: `missing`; `truncated` or `unreadable` when the archive or its member is damaged, encrypted, split.
    """
    virtual = _VIRTUAL.fullmatch(str(path))
    try:
        if virtual is None or os.path.isfile(path):  # noqa: PTH113 -- False, not an error, for impossible names
            return cast(BinaryIO, open(path, "rb", buffering=0))
    except FileNotFoundError:
        raise AudioError("no such file", state="missing") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _archive(virtual["archive"]).open(virtual["member"])


class _Archive(Protocol):
    def audio_names(self) -> list[str]: ...

    def size_bytes(self, name: str) -> int | None: ...

    def open(self, name: str) -> BinaryIO: ...


def _member_bytes(path: Path) -> int | None:
    virtual = _VIRTUAL.fullmatch(str(path))
    if virtual is None:
        return None
    try:
        return _archive(virtual["archive"]).size_bytes(virtual["member"])
    except AudioError as error:
        return None if error.state == "missing" else Path(virtual["archive"]).stat().st_size


def _archive(place: str) -> _Archive:
    """The open archive; it is opened again when the file has changed, and in every process."""
    try:
        status = Path(place).stat()
    except (OSError, ValueError):
        raise AudioError("no such archive", state="missing", where={"archive": place}) from None
    return _open_archive(place, os.getpid(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_OPEN_ARCHIVES)
def _open_archive(place: str, pid: int, n_bytes: int, mtime_ns: int) -> _Archive:
    return _Zip(place) if place.lower().endswith(".zip") else _Parquet(place)


def split_hint(place: str) -> str:
    """What to run for the last part, `X.zip`, of a split zip."""
    path = Path(place)
    return f"join its parts first: zip -s 0 {path.name} --out {path.stem}-whole.zip"


def open_zip(place: str) -> zipfile.ZipFile:
    """A zip archive that is all there.

    Raises:
        AudioError: it is damaged, or one part of a split one, which neither Python nor plain `unzip` can read.
    """
    split = AudioError("this is one part of a split zip archive", where={"archive": place}, hint=split_hint(place))
    try:
        archive = zipfile.ZipFile(place)
        if any(info.header_offset < 0 for info in archive.infolist()):
            raise zipfile.BadZipFile("its beginning is missing")
    except _BROKEN as error:
        if Path(place).with_suffix(".z01").exists():
            raise split from None
        raise AudioError(
            f"a zip archive is cut or damaged: {error}", where={"archive": place}, hint="download it again"
        ) from None
    except OSError as error:
        raise AudioError(f"an archive cannot be read: {error.strerror}", where={"archive": place}) from None
    # Members that lie in other files; 0xFFFF stands for "see elsewhere" in large archives.
    if any(info.volume not in (0, 0xFFFF) for info in archive.infolist()):
        archive.close()
        raise split
    return archive


def member_name(info: zipfile.ZipInfo) -> str:
    """The name of a zip member with `/` between folders, as UTF-8 where that is what it must have been.

    Old macOS archives hold UTF-8 without saying so, and Python reads that as cp437.
    """
    name = info.filename
    if not name.isascii() and not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return name.replace("\\", "/") if info.create_system == _MADE_ON_WINDOWS else name


class _Zip:
    def __init__(self, place: str) -> None:
        self._place = place
        self._zip = open_zip(place)
        self._members = {_tidy(member_name(info)): info for info in self._zip.infolist() if not info.is_dir()}

    def audio_names(self) -> list[str]:
        return sorted(
            name
            for name in self._members
            if name.lower().endswith(AUDIO_SUFFIXES) and not any(map(is_litter, name.split("/")))
        )

    def size_bytes(self, name: str) -> int | None:
        info = self._members.get(name)
        return None if info is None else info.file_size

    def open(self, name: str) -> BinaryIO:
        """The content of one member, seekable; AudioError when it is absent, damaged, encrypted or too large."""
        info = self._members.get(name)
        if info is None:
            raise AudioError("no such member of the archive", state="missing", where={"archive": self._place})
        self._refuse(info)
        # A member larger than this goes through a temporary file: memory stays bounded, seeking stays cheap.
        is_small = info.file_size <= _IN_MEMORY_BYTES
        copy: Any = io.BytesIO() if is_small else tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
        try:
            with self._zip.open(info) as member:
                shutil.copyfileobj(member, copy, 1 << 20)
        except _BROKEN as error:
            copy.close()
            state = "truncated" if isinstance(error, EOFError) else "unreadable"
            what = f"damaged inside its archive: {error}"
            raise AudioError(what, state=state, where={"archive": self._place}, hint="download it again") from None
        copy.seek(0)
        return cast(BinaryIO, copy)

    def _refuse(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise AudioError("encrypted inside its archive", hint="unpack the archive with its password")
        is_bomb = info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size)
        if info.file_size > _MAX_MEMBER_BYTES or is_bomb:
            raise AudioError(
                "too large inside its archive, perhaps a zip bomb",
                got=f"{info.file_size} bytes packed in {info.compress_size}",
                expected=f"<= {_MAX_MEMBER_BYTES} bytes, packed no more than {_BOMB_RATIO}:1 above {_BOMB_BYTES} bytes",
                hint="unpack the archive by hand if you trust it",
            )


class _Parquet:
    """Rows with `audio_bytes` (a whole audio file), or the hub's struct column `audio: {bytes, path}`."""

    def __init__(self, place: str) -> None:
        from pyarrow import ArrowException, parquet  # a second of start time that plain files need not pay

        self._place = place
        self._errors = (ArrowException, OSError, ValueError, LookupError, StopIteration)
        try:
            # Buffered, so that of a row group not all audio is loaded for one row, but only the pages up to it.
            self._file = parquet.ParquetFile(place, buffer_size=1 << 20, pre_buffer=False)
            columns = {self._file.metadata.schema.column(i).path: i for i in range(self._file.metadata.num_columns)}
        except self._errors as error:
            raise self._damaged(error) from None
        self._audio = next((name for name in ("audio_bytes", "audio.bytes") if name in columns), None)
        self._column = columns[self._audio] if self._audio else 0
        self._names = [name for name in _NAME_COLUMNS if name in columns]
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._first_rows = [0, *itertools.accumulate(groups)]

    def audio_names(self) -> list[str]:
        """`<row>/<file name>` of every row, in order; none when no column holds audio."""
        if self._audio is None:
            return []
        if not self._names:
            return [f"{row}/{row:06d}.wav" for row in range(self._first_rows[-1])]
        names: list[str] = []
        try:
            for batch in self._file.iter_batches(columns=self._names):
                for values in zip(*(_leaf(batch, name).to_pylist() for name in self._names), strict=True):
                    row = len(names)
                    names.append(f"{row}/{_row_name(values, row)}")
        except self._errors as error:
            raise self._damaged(error) from None
        return names

    def size_bytes(self, name: str) -> int | None:
        row = self._row(name)
        if row is None:
            return None
        group = self._file.metadata.row_group(self._group_of(row))
        return max(1, group.column(self._column).total_uncompressed_size // group.num_rows)

    def open(self, name: str) -> BinaryIO:
        """The audio file in one row, seekable; AudioError when the row is absent, empty or damaged."""
        row = self._row(name)
        if row is None:
            raise AudioError("no such row of the parquet file", state="missing", where={"archive": self._place})
        group = self._group_of(row)
        try:
            rows = self._file.iter_batches(1, row_groups=[group], columns=[self._audio])
            batch = next(itertools.islice(rows, row - self._first_rows[group], None))
            content = _leaf(batch, cast(str, self._audio))[0].as_py()
        except self._errors as error:
            raise self._damaged(error) from None
        if content is None:
            raise AudioError("the row holds no audio", state="missing", where={"archive": self._place})
        return io.BytesIO(content)

    def _row(self, name: str) -> int | None:
        number = name.partition("/")[0]
        is_there = self._audio is not None and number.isdecimal() and int(number) < self._first_rows[-1]
        return int(number) if is_there else None

    def _group_of(self, row: int) -> int:
        return bisect_right(self._first_rows, row) - 1

    def _damaged(self, error: Exception) -> AudioError:
        return AudioError(
            f"a parquet file is cut or damaged: {error}", where={"archive": self._place}, hint="download it again"
        )


def _tidy(name: str) -> str:
    """As `Path` spells it, since virtual paths go through it: no `//`, no `./`, not absolute."""
    if "//" not in name and "./" not in name and not name.startswith("/"):
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _leaf(batch: Any, name: str) -> Any:
    """The column `name` of a record batch; `audio.path` is the field `path` of the column `audio`."""
    column, _, field = name.partition(".")
    return batch.column(column).field(field) if field else batch.column(column)


def _row_name(values: tuple[Any, ...], row: int) -> str:
    """The first name that a row has; one without an audio suffix gets `.wav`, which says nothing about its format."""
    name = next((os.path.basename(str(value)) for value in values if value), "") or f"{row:06d}"  # noqa: PTH119
    return name if name.lower().endswith(AUDIO_SUFFIXES) else f"{name}.wav"
