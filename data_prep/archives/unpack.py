"""Unpack the archives that corpora are published in: whole or not at all, and nothing outside the target folder.

An archive unpacks into a temporary folder beside its target, `<out>/<name of the archive without its suffix>`, which
one rename then puts in place. The folder holds a mark with the name and size of its archive, so a second run skips it;
what a killed run left is removed.

No member can write outside, whatever its name: absolute names and `..` are refused, folders are made one by one and
must not be links, files are only ever created, never overwritten, and links must end inside. (tarfile's own filters
strip leading slashes silently and had holes in several releases of Python.)
"""

from __future__ import annotations

import errno
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from data_prep.archives.sources import AUDIO_SUFFIXES, is_litter, member_name, open_zip
from pipeline.atomic import is_stale_temporary, sync_folder, temporary_path
from pipeline.errors import AudioError, CorpusError

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Longest first: `x.tar.gz` unpacks to `x`.
_SUFFIXES = sorted((*_TAR_SUFFIXES, ".zip", ".7z"), key=len, reverse=True)
_MARK = ".unpacked.json"
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_ENCRYPTED = 1
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)

Progress = Callable[[Path, int, int], None]
"""Called with the archive and the files and bytes unpacked from it so far."""


@dataclass(frozen=True)
class Unpacked:
    """One archive in its folder; `was_done` by an earlier run."""

    archive: Path
    folder: Path
    n_files: int
    n_bytes: int
    was_done: bool = False


def find_archives(folder: Path) -> list[Path]:
    """All archives below `folder`, sorted; not those of one audio file (`X.wav.zip`), which are read as they are."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_litter(name)]
        found += [Path(place, name) for name in names if not is_litter(name) and _is_archive(name.lower())]
    return sorted(found)


def unpack(archives: Sequence[Path], out: Path, on_progress: Progress | None = None) -> list[Unpacked]:
    """Unpack each archive into its own folder below `out`; nothing is stripped from the names inside.

    Raises:
        CorpusError: an archive is absent, damaged, encrypted, split or unsafe; its folder is taken; the disk is full.
            What was unpacked before stays, of the failed archive nothing is left.
    """
    targets: dict[Path, Path] = {}
    for archive in archives:
        target = out / _folder_name(archive)
        if target in targets:
            raise CorpusError(
                "two archives would unpack to the same folder",
                where={"folder": target, "archives": f"{targets[target]}, {archive}"},
                hint="unpack them one by one into different folders: --out",
            )
        targets[target] = archive
    return [_unpack_one(archive, target, on_progress) for target, archive in targets.items()]


def _is_archive(name: str) -> bool:
    return name.endswith(tuple(_SUFFIXES)) and not name.endswith(tuple(f"{suffix}.zip" for suffix in AUDIO_SUFFIXES))


def _folder_name(archive: Path) -> str:
    suffix = next((suffix for suffix in _SUFFIXES if archive.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise CorpusError("no archive that can be unpacked", where={"file": archive}, expected=" ".join(_SUFFIXES))
    return archive.name[: -len(suffix)] or archive.name


def _unpack_one(archive: Path, target: Path, on_progress: Progress | None) -> Unpacked:
    temporary = temporary_path(target)
    with _plain_errors(archive):
        n_packed = archive.stat().st_size
        done = _already_done(archive, n_packed, target)
        if done is not None:
            return done
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{_glob_escaped(target.name)}.*.tmp"):
            if is_stale_temporary(left):
                shutil.rmtree(left)
        try:
            temporary.mkdir()
            box = _Box(archive, temporary, on_progress)
            _read(archive, box)
            box.check_links()
            mark = {"archive": archive.name, "archive_bytes": n_packed, "files": box.n_files, "bytes": box.n_bytes}
            (temporary / _MARK).unlink(missing_ok=True)  # one that was packed with the rest
            (temporary / _MARK).write_text(json.dumps(mark))
            os.sync()  # once, instead of an fsync for each of many thousand files
            temporary.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Unpacked(archive, target, box.n_files, box.n_bytes)


def _already_done(archive: Path, n_packed: int, target: Path) -> Unpacked | None:
    if not os.path.lexists(target):
        return None
    try:
        mark = json.loads((target / _MARK).read_text())
        if (mark["archive"], mark["archive_bytes"]) == (archive.name, n_packed):
            return Unpacked(archive, target, mark["files"], mark["bytes"], was_done=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise CorpusError(
        "the folder is there already, and is not what this archive unpacks to",
        where={"archive": archive, "folder": target},
        hint="remove the folder, or choose another one: --out",
    )


@contextmanager
def _plain_errors(archive: Path) -> Iterator[None]:
    """What the libraries raise, as a CorpusError that names the archive."""
    try:
        yield
    except _BROKEN as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report damage so
            raise _damaged(archive, error) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CorpusError(
                "the disk is full",
                where={"archive": archive},
                hint="free space or choose another disk: --out; nothing of this archive was left behind",
            ) from error
        raise CorpusError(f"cannot be unpacked: {error.strerror}", where={"archive": archive}) from error


def _damaged(archive: Path, error: Exception) -> CorpusError:
    return CorpusError(f"the archive is cut or damaged: {error}", where={"archive": archive}, hint="download it again")


def _read(archive: Path, box: _Box) -> None:
    name = archive.name.lower()
    if name.endswith(".zip"):
        _read_zip(archive, box)
    elif name.endswith(".7z"):
        _read_7z(archive, box)
    else:
        _read_tar(archive, box)


def _read_tar(archive: Path, box: _Box) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                box.add_folder(member.name)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                box.add_file(member.name, member.size, content)
            elif member.issym():
                box.add_link(member.name, member.linkname)
            elif member.islnk():
                box.add_hard_link(member.name, member.linkname)
            else:
                box.refuse(member.name, "it is a device or pipe")
        # tarfile ends without a word at a damaged header and at the end of a cut file. A whole tar ends in two blocks
        # of zeros, of which it has read one; reading on also makes gzip compare its checksum.
        assert tar.fileobj is not None
        n_rest = 0
        while block := tar.fileobj.read(1 << 20):
            n_rest += len(block)
            if block.strip(b"\0"):
                raise tarfile.ReadError("a damaged header, or something behind the end mark")
        if n_rest < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the end mark is missing")


def _read_zip(archive: Path, box: _Box) -> None:
    try:
        packed = open_zip(str(archive))
    except AudioError as error:
        raise CorpusError(error.what, where=error.where, hint=error.hint) from None
    with packed:
        box.expect(sum(info.file_size for info in packed.infolist()))
        for info in packed.infolist():
            _add_zip_member(packed, info, box)


def _add_zip_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo, box: _Box) -> None:
    name = member_name(info)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & _ENCRYPTED:
        box.refuse(name, "it is encrypted: unpack the archive with its password")
    elif info.is_dir():
        box.add_folder(name)
    elif kind == stat.S_IFLNK:
        box.add_link(name, packed.read(info).decode("utf-8", "surrogateescape"))
    elif kind not in (0, stat.S_IFREG):
        box.refuse(name, "it is a device or pipe")
    else:
        with packed.open(info) as content:
            box.add_file(name, info.file_size, content)


def _read_7z(archive: Path, box: _Box) -> None:
    try:
        import py7zr
    except ImportError:
        raise CorpusError(
            "7z archives need the package py7zr",
            where={"archive": archive},
            hint=f"pip install 'audio-gst[media]', or: 7z x {archive} -o{archive.with_suffix('')}",
        ) from None
    try:
        with py7zr.SevenZipFile(archive) as packed:
            if packed.needs_password():
                raise CorpusError(
                    "the archive is encrypted", where={"archive": archive}, hint=f"unpack it by hand: 7z x {archive}"
                )
            sizes: dict[Path, int] = {}
            for member in packed.files:
                place = box.place(member.filename)
                if place in sizes:
                    box.refuse(member.filename, "another member has the same name")
                if member.is_symlink or not (member.is_directory or member.is_file):
                    box.refuse(member.filename, "it is a link, a device or a pipe")
                if member.is_file:
                    sizes[place] = member.uncompressed
            box.expect(sum(sizes.values()))
            packed.extractall(box.folder)
    except (py7zr.exceptions.ArchiveError, py7zr.Bad7zFile) as error:
        raise _damaged(archive, error) from error
    box.count(sizes)


class _Box:
    """The folder that one archive unpacks into, and the only code that writes there."""

    def __init__(self, archive: Path, folder: Path, on_progress: Progress | None) -> None:
        self.folder = folder
        self.n_files = 0
        self.n_bytes = 0
        self._archive = archive
        self._on_progress = on_progress
        self._folders = {folder}
        self._links: list[tuple[str, Path]] = []

    def refuse(self, member: str, why: str) -> NoReturn:
        raise CorpusError(
            f"a member of an archive is refused: {why}",
            where={"archive": self._archive, "member": repr(member)},
            hint="do not unpack this archive unless you know why it holds that",
        )

    def expect(self, n_bytes: int) -> None:
        """Refuse before writing what will not fit: a full disk, or a zip bomb."""
        free = shutil.disk_usage(self.folder).free
        if n_bytes > free:
            raise CorpusError(
                "the archive needs more space than is free",
                where={"archive": self._archive, "folder": self.folder.parent},
                got=f"{free} bytes free",
                expected=f"{n_bytes} bytes",
                hint="free space, or choose another disk: --out",
            )

    def place(self, name: str, member: str | None = None) -> Path:
        """Where a name belongs; refused when it leads out of the folder. `member` is who bears or links to it."""
        member = name if member is None else member
        if name.startswith(("/", "\\")) or _DRIVE.match(name):
            self.refuse(member, f"the path {name!r} is absolute")
        if ".." in re.split(r"[/\\]", name):
            self.refuse(member, f"the path {name!r} leaves the folder")
        if "\0" in name:
            self.refuse(member, "its name is damaged")
        return self.folder.joinpath(*(part for part in name.split("/") if part not in ("", ".")))

    def add_folder(self, member: str) -> None:
        self._make(self.place(member), member)

    def add_file(self, member: str, n_bytes: int, content: IO[bytes]) -> None:
        """Write a new file; EOFError when `content` has not the promised `n_bytes`, CorpusError for an unsafe name."""
        path = self._new(member)
        self.expect(n_bytes)
        try:
            with open(path, "xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
                n_written = file.tell()
        except FileExistsError:
            self._refuse_taken(member)
        if n_written != n_bytes:
            raise EOFError(f"{member} has {n_written} of {n_bytes} bytes")
        self.n_files += 1
        self.n_bytes += n_bytes
        self._report()

    def add_link(self, member: str, target: str) -> None:
        """Make a symbolic link; where it ends is judged by `check_links`, when all members are there."""
        path = self._new(member)
        if Path(target).is_absolute() or "\0" in target:
            self.refuse(member, f"it is a link that leaves the folder: {target!r}")
        try:
            path.symlink_to(target)
        except FileExistsError:
            self._refuse_taken(member)
        self._links.append((member, path))

    def add_hard_link(self, member: str, target: str) -> None:
        """Link to a file that the archive brought before; CorpusError when `target` is no such file."""
        path, source = self._new(member), self.place(target, member)
        if source.parent not in self._folders or not source.is_file() or source.is_symlink():
            self.refuse(member, f"it is a link to what is not in the archive: {target!r}")
        try:
            path.hardlink_to(source)
        except FileExistsError:
            self._refuse_taken(member)
        self.n_files += 1

    def check_links(self) -> None:
        """Every link must end inside; asked at the end, since links may lead through later ones."""
        root = os.path.realpath(self.folder)
        for member, path in self._links:
            real = os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                self.refuse(member, f"it is a link that leaves the folder: {os.readlink(path)!r}")  # noqa: PTH115

    def count(self, sizes: dict[Path, int]) -> None:
        """Files that a library has written itself: all there, none overwritten by another one."""
        for path, n_bytes in sizes.items():
            if path.stat().st_size != n_bytes:
                self.refuse(path.name, "its size is not the promised one, or another member has the same name")
        self.n_files, self.n_bytes = len(sizes), sum(sizes.values())
        self._report()

    def _new(self, member: str) -> Path:
        path = self.place(member)
        if path == self.folder:
            self.refuse(member, "it has no name")
        self._make(path.parent, member)
        return path

    def _make(self, folder: Path, member: str) -> None:
        """Make a folder and those above it, none of which may be a link."""
        if folder in self._folders:
            return
        self._make(folder.parent, member)
        try:
            folder.mkdir()
        except FileExistsError:
            if folder.is_symlink() or not folder.is_dir():
                self.refuse(member, "it lies below a link or a file")
        self._folders.add(folder)

    def _refuse_taken(self, member: str) -> NoReturn:
        self.refuse(member, "another member has the same name, here where letter case may not count")

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._archive, self.n_files, self.n_bytes)


def _glob_escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
