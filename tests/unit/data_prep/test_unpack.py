"""Unpacking: whole or not at all, never outside the folder, killed and run again."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from prep_corpora import tree

from data_prep.archives.unpack import find_archives, unpack
from pipeline.errors import CorpusError

FILES = {
    "corpus/a.wav": np.random.default_rng(1).bytes(30_000),
    "corpus/deep/er/b.wav": bytes(40_000),
    "corpus/empty.txt": b"",
    "corpus/caf\u00e9 -x, y.wav": b"name",
}


def tar_of(path: Path, files: dict[str, bytes] = FILES, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("corpus/nothing")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def seven_of(path: Path) -> Path:
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(content, name)
    return path


def special(path: Path, *members: tarfile.TarInfo, files: dict[str, bytes] | None = None) -> Path:
    """A tar of a good file and of members made by hand."""
    with tarfile.open(path, "w") as tar:
        for name, content in (files or {"good.wav": b"good"}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if not name.startswith(".")}


def assert_refused(archive: Path, out: Path, why: str) -> CorpusError:
    """Refused with the archive named, and nothing is left: neither in `out` nor beside it."""
    before = set(out.parent.rglob("*")) | {out}
    with pytest.raises(CorpusError, match=why) as caught:
        unpack([archive], out)
    assert caught.value.where["archive"] == archive or caught.value.where["archive"] == str(archive)
    assert set(out.parent.rglob("*")) <= before
    return caught.value


MAKERS = {
    "x.tar": tar_of,
    "x.tar.gz": lambda path: tar_of(path, mode="w:gz"),
    "x.tgz": lambda path: tar_of(path, mode="w:gz"),
    "x.tar.bz2": lambda path: tar_of(path, mode="w:bz2"),
    "x.TAR.XZ": lambda path: tar_of(path, mode="w:xz"),
    "x.zip": zip_of,
    "x.7z": seven_of,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_unpacks_and_is_skipped_the_second_time(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name)
    seen: list[tuple[Path, int, int]] = []
    (done,) = unpack([archive], tmp_path / "out", lambda *progress: seen.append(progress))
    assert done.folder == tmp_path / "out" / "x"
    assert contents(done.folder) == FILES
    total = sum(map(len, FILES.values()))
    assert (done.n_files, done.n_bytes, done.was_done) == (4, total, False)
    assert seen[-1] == (archive, 4, total)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    (done.folder / "corpus/a.wav").write_bytes(b"mine")
    (again,) = unpack([archive], tmp_path / "out")
    assert again.was_done and (again.n_files, again.n_bytes) == (4, total)
    assert (done.folder / "corpus/a.wav").read_bytes() == b"mine"


def test_links_inside_are_kept(tmp_path: Path) -> None:
    archive = special(
        tmp_path / "x.tar",
        member("in/soft.wav", tarfile.SYMTYPE, "../good.wav"),
        member("in/hard.wav", tarfile.LNKTYPE, "good.wav"),
    )
    (done,) = unpack([archive], tmp_path / "out")
    assert (done.folder / "in/soft.wav").read_bytes() == (done.folder / "in/hard.wav").read_bytes() == b"good"
    assert (done.folder / "in/soft.wav").is_symlink()


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("/tmp/evil.wav")], "absolute"),
        ([member("C:\\evil.wav")], "absolute"),
        ([member("\\\\host\\evil.wav")], "absolute"),
        ([member("a/../../evil.wav")], "leaves the folder"),
        ([member("..\\evil.wav")], "leaves the folder"),
        ([member("..")], "leaves the folder"),
        ([member("../evil", tarfile.DIRTYPE)], "leaves the folder"),
        ([member("link", tarfile.SYMTYPE, "/etc")], "link that leaves"),
        ([member("link", tarfile.SYMTYPE, "../../x")], "link that leaves"),
        ([member("d/up", tarfile.SYMTYPE, ".."), member("link", tarfile.SYMTYPE, "d/up/../x")], "link that leaves"),
        ([member("link", tarfile.SYMTYPE, ".."), member("link/evil.wav")], "below a link"),
        ([member("link", tarfile.SYMTYPE, "."), member("link/evil.wav")], "below a link"),
        ([member("good.wav/evil.wav")], "below a link or a file"),
        ([member("link", tarfile.SYMTYPE, "../evil.wav"), member("link")], "same name"),
        ([member("hard", tarfile.LNKTYPE, "/etc/passwd")], "absolute"),
        ([member("hard", tarfile.LNKTYPE, "../../x")], "leaves the folder"),
        ([member("hard", tarfile.LNKTYPE, "later.wav"), member("later.wav")], "not in the archive"),
        ([member("soft", tarfile.SYMTYPE, "/etc/passwd")], "link that leaves"),
        ([member("soft", tarfile.SYMTYPE, "good.wav"), member("hard", tarfile.LNKTYPE, "soft")], "not in the archive"),
        ([member("null", tarfile.CHRTYPE)], "device"),
        ([member("pipe", tarfile.FIFOTYPE)], "device or pipe"),
        ([member("good.wav")], "same name"),
        ([member("./good.wav")], "same name"),
    ],
)
def test_a_tar_that_tries_to_leave_its_folder(tmp_path: Path, members: list[tarfile.TarInfo], why: str) -> None:
    error = assert_refused(special(tmp_path / "x.tar", *members), tmp_path / "out", why)
    assert error.where["member"] in {repr(info.name) for info in members}


@pytest.mark.parametrize(
    ("info", "content", "why"),
    [
        (zip_member("../evil.wav", 0o100644), b"x", "leaves the folder"),
        (zip_member("/evil.wav", 0o100644), b"x", "absolute"),
        (zip_member("link", 0o120777), b"../../etc", "link that leaves"),
        (zip_member("link", 0o120777), b"/etc/passwd", "link that leaves"),
        (zip_member("null", 0o020666), b"", "device"),
        (zip_member("good.wav", 0o100644), b"x", "same name"),
    ],
)
def test_a_zip_that_tries_to_leave_its_folder(tmp_path: Path, info: zipfile.ZipInfo, content: bytes, why: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.wav", b"good")
        archive.writestr(info, content)
    assert_refused(tmp_path / "x.zip", tmp_path / "out", why)


def test_windows_names_in_a_zip_become_folders(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("in/a.wav")
    info.create_system, info.filename = 0, "in\\a.wav"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, b"x")
    unpack([tmp_path / "x.zip"], tmp_path / "out")
    assert (tmp_path / "out/x/in/a.wav").read_bytes() == b"x"


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_cut_archives_leave_nothing(tmp_path: Path, name: str, share: float) -> None:
    archive = MAKERS[name](tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    assert_refused(archive, tmp_path / "out", "cut or damaged")


@pytest.mark.parametrize("name", MAKERS)
def test_archives_with_other_bytes_in_the_middle_leave_nothing(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name)
    content = bytearray(archive.read_bytes())
    # A plain tar has checksums of its headers only.
    content[content.index(b"corpus/empty.txt") if name == "x.tar" else 10_000] ^= 0xFF
    archive.write_bytes(content)
    assert_refused(archive, tmp_path / "out", "cut or damaged")


def test_tar_cut_between_members_or_followed_by_another(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "x.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        edge = tar.getmembers()[2].offset
    (tmp_path / "x.tar").write_bytes(whole[:edge])
    assert_refused(tmp_path / "x.tar", tmp_path / "out", "end mark is missing")
    (tmp_path / "x.tar").write_bytes(whole + whole)
    assert_refused(tmp_path / "x.tar", tmp_path / "out", "behind the end mark")


def test_split_and_encrypted_zips_say_what_to_do(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "CochlScene.zip")
    whole = archive.read_bytes()
    at = whole.index(b"PK\1\2")
    archive.write_bytes(whole[: at + 34] + struct.pack("<H", 2) + whole[at + 36 :])
    error = assert_refused(archive, tmp_path / "out", "one part of a split zip")
    assert error.hint == "join its parts first: zip -s 0 CochlScene.zip --out CochlScene-whole.zip"
    at = whole.rindex(b"PK\1\2")
    archive.write_bytes(whole[: at + 8] + bytes([whole[at + 8] | 1]) + whole[at + 9 :])
    assert_refused(archive, tmp_path / "out", "encrypted")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.7z"])
def test_what_does_not_fit_is_refused_before_it_is_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip bomb, or an honest archive and a small disk: the free space is what differs, so that is what is set."""
    archive = MAKERS[name](tmp_path / name)
    free = shutil.disk_usage(tmp_path)._replace(free=29_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert_refused(archive, tmp_path / "out", "more space than is free")


@pytest.mark.parametrize("name", MAKERS)
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (35_000, hard))
    try:
        assert_refused(archive, tmp_path / "out", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_folders_that_are_taken(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tar")
    (tmp_path / "out" / "x").mkdir(parents=True)
    (tmp_path / "out" / "x" / "mine.txt").write_text("mine")
    with pytest.raises(CorpusError, match="is there already"):
        unpack([archive], tmp_path / "out")
    assert contents(tmp_path / "out") == {"x/mine.txt": b"mine"}
    unpack([archive], tmp_path / "other")
    tar_of(archive, {"new.wav": bytes(99_999)})
    with pytest.raises(CorpusError, match="is there already"):
        unpack([archive], tmp_path / "other")
    with pytest.raises(CorpusError, match="same folder"):
        unpack([archive, zip_of(tmp_path / "x.zip")], tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_archives_before_a_bad_one_stay(tmp_path: Path) -> None:
    good, bad = tar_of(tmp_path / "good.tar"), tmp_path / "none.tar"
    with pytest.raises(CorpusError, match="No such file"):
        unpack([good, bad], tmp_path / "out")
    assert contents(tmp_path / "out" / "good") == FILES
    with pytest.raises(CorpusError, match="no archive"):
        unpack([tmp_path / "a.rar"], tmp_path / "out")


def test_7z_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clotho.7z").write_bytes(b"7z")
    monkeypatch.setitem(sys.modules, "py7zr", None)
    error = assert_refused(tmp_path / "clotho.7z", tmp_path / "out", "py7zr")
    assert f"7z x {tmp_path}/clotho.7z" in str(error.hint)


def test_find_archives(tmp_path: Path) -> None:
    names = ["b.tar.gz", "in/a.zip", "c.7z", "d.TGZ", "e.txz"]
    for name in [*names, "f.z01", "audios/1.wav.zip", "._g.zip", ".cache/h.zip", "i.parquet", "j.wav"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_archives(tmp_path) == sorted(tmp_path / name for name in names)


def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    """The child stops after its third file and is killed there; the next run finds and removes what it left."""
    files = {f"{number:03d}.wav": np.random.default_rng(number).bytes(5_000) for number in range(20)}
    archive = tar_of(tmp_path / "x.tar.gz", files, mode="w:gz")
    script = (
        "import sys, time; from pathlib import Path; from data_prep.archives.unpack import unpack\n"
        "def wait(archive, n_files, n_bytes):\n"
        "    if n_files == 3: print('there', flush=True); time.sleep(60)\n"
        "unpack([Path(sys.argv[1])], Path(sys.argv[2]), wait)"
    )
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", script, archive, out], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"there\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (left,) = out.iterdir()
    assert left.name.startswith(".x.") and len(list(left.iterdir())) == 3
    unpack([archive], out)
    assert [path.name for path in out.iterdir()] == ["x"]
    assert contents(out / "x") == files


def test_a_living_run_is_not_disturbed(tmp_path: Path) -> None:
    """Two at once: the folder of the one that still works is left alone."""
    archive = tar_of(tmp_path / "x.tar")
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        theirs = tmp_path / "out" / f".x.{sleeper.pid}.{os.uname().nodename}.tmp"
        theirs.mkdir(parents=True)
        unpack([archive], tmp_path / "out")
        assert theirs.is_dir()
    finally:
        sleeper.kill()
        sleeper.wait()
