"""Audio inside zip and parquet files: listed, measured and read like plain files, damage named."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from prep_corpora import noise
from pyarrow import parquet

from data_prep.archives import sources
from data_prep.archives.sources import members, open_source, size_bytes
from data_prep.audio.load import AudioOptions, load_windows
from pipeline.errors import AudioError


def wav(seed: int = 0, seconds: float = 0.2) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, noise(seconds, seed=seed), 16_000, format="WAV")
    return content.getvalue()


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def names(archive: Path) -> list[str]:
    return [path.removeprefix(f"{archive}!/") for path in members(archive)]


def read(path: str | Path) -> bytes:
    with open_source(Path(path)) as file:
        return file.read()


def state_of(path: str | Path) -> str:
    with pytest.raises(AudioError) as caught:
        open_source(Path(path))
    return caught.value.state


def test_zip_members_without_litter_in_order_of_names(tmp_path: Path) -> None:
    files = ["audios/b.wav", "audios/a b.FLAC", "notes.txt", "__MACOSX/audios/._b.wav", "audios/._b.wav", ".x/c.wav"]
    archive = pack(tmp_path / "audios.zip", dict.fromkeys([*files, "./d.mp3", "e//f.ogg"], b"x"))
    assert names(archive) == ["audios/a b.FLAC", "audios/b.wav", "d.mp3", "e/f.ogg"]
    for path in members(archive):
        assert size_bytes(Path(path)) == 1
        assert read(path) == b"x"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_decodes_like_the_file(tmp_path: Path, method: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    archive = pack(tmp_path / "x.zip", {"in/a.wav": wav()}, method)
    member, plain = Path(f"{archive}!/in/a.wav"), tmp_path / "a.wav"
    assert size_bytes(member) == size_bytes(plain) == len(wav())
    options = AudioOptions()
    inside, outside = load_windows(member, options), load_windows(plain, options)
    assert np.array_equal(inside.windows[0].audio, outside.windows[0].audio)
    assert inside.duration_s == outside.duration_s


def test_names_in_utf8_that_do_not_say_so(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"Caf\u00e9/\u041f.wav": b"x"})
    content = archive.read_bytes()
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(start) + flags
        content = content[:at] + b"\0\0" + content[at + 2 :]  # without the flag "this is UTF-8"
    archive.write_bytes(content)
    assert names(archive) == ["Caf\u00e9/\u041f.wav"]
    assert read(next(members(archive))) == b"x"


def test_plain_files_and_what_is_not_there(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.wav": b"x"})
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(b"abc")
    inside = tmp_path / "y.zip!"
    inside.mkdir()
    (inside / "a.wav").write_bytes(b"abcd")
    assert size_bytes(odd) == 3 and read(odd) == b"abc"
    assert size_bytes(inside / "a.wav") == 4 and read(inside / "a.wav") == b"abcd"
    assert size_bytes(tmp_path) is None
    absent = [
        tmp_path / "a.wav",
        Path(f"{archive}!/b.wav"),
        tmp_path / "none.zip!/a.wav",
        tmp_path / "none.parquet!/0/a",
    ]
    for path in [*absent, Path("a\0b.wav"), Path("half\ud800.wav"), Path("half\ud800.zip!/a.wav")]:
        assert size_bytes(path) is None
    assert {state_of(path) for path in absent} == {"missing"}
    assert state_of("a\0b.wav") == "unreadable"


def test_damage_inside_a_zip(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.wav": wav(1), "b.wav": wav(2)}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[500] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(AudioError, match="damaged inside its archive"):
        open_source(Path(f"{archive}!/a.wav"))
    assert read(f"{archive}!/b.wav") == wav(2)


def test_cut_zip(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.wav": wav()})
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(AudioError, match="cut or damaged") as caught:
        list(members(archive))
    assert caught.value.where == {"archive": str(archive)}
    # There, but damaged: not the same as missing.
    assert size_bytes(Path(f"{archive}!/a.wav")) == archive.stat().st_size
    assert state_of(f"{archive}!/a.wav") == "unreadable"


def on_disk(archive: Path, disk: int) -> None:
    """Make a zip the last part of a split one: its members begin on another disk."""
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 34 : at + 36] = struct.pack("<H", disk)
    archive.write_bytes(content)


def test_split_zip_names_the_command(tmp_path: Path) -> None:
    archive = pack(tmp_path / "CochlScene.zip", {"a.wav": wav()})
    on_disk(archive, 1)
    with pytest.raises(AudioError, match=r"zip -s 0 CochlScene\.zip --out CochlScene-whole\.zip"):
        list(members(archive))
    archive.write_bytes(archive.read_bytes()[:-60])
    (tmp_path / "CochlScene.z01").write_bytes(b"PK")
    with pytest.raises(AudioError, match="zip -s 0"):
        list(members(archive))


def test_encrypted_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "x.zip", {"a.wav": bytes(100_000)})
    monkeypatch.setattr(sources, "_MAX_MEMBER_BYTES", 99_999)
    with pytest.raises(AudioError, match="zip bomb"):
        open_source(Path(f"{archive}!/a.wav"))
    monkeypatch.setattr(sources, "_MAX_MEMBER_BYTES", 100_000)
    monkeypatch.setattr(sources, "_BOMB_BYTES", 99_999)
    with pytest.raises(AudioError, match="zip bomb"):
        open_source(Path(f"{archive}!/a.wav"))
    monkeypatch.setattr(sources, "_BOMB_BYTES", 100_000)
    assert read(f"{archive}!/a.wav") == bytes(100_000)
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(AudioError, match="encrypted"):
        open_source(Path(f"{archive}!/a.wav"))


def test_a_large_member_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_IN_MEMORY_BYTES", 1_000)
    archive = pack(tmp_path / "x.zip", {"a.wav": wav(3, seconds=1.0)})
    with open_source(Path(f"{archive}!/a.wav")) as file:
        assert not isinstance(file, io.BytesIO)
        assert file.read() == wav(3, seconds=1.0)
    assert len(load_windows(Path(f"{archive}!/a.wav"), AudioOptions()).windows[0].audio) == 16_000


def test_an_archive_that_changed_is_read_anew(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.wav": b"old"})
    assert names(archive) == ["a.wav"]
    pack(archive, {"bb.wav": b"newer"})
    assert names(archive) == ["bb.wav"] and read(f"{archive}!/bb.wav") == b"newer"


def test_few_archives_stay_open(tmp_path: Path) -> None:
    for number in range(60):
        archive = pack(tmp_path / f"{number}.wav.zip", {f"{number}.wav": b"x"})
        assert names(archive) == [f"{number}.wav"]
    if Path("/proc/self/fd").is_dir():
        n_open = sum(os.fspath(tmp_path) in os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir())
        assert n_open <= 32


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_do_not_disturb_each_other(tmp_path: Path, method: str) -> None:
    """The parent has the archive open; forked children share its file position unless they open their own."""
    contents = {f"{number}.wav": np.random.default_rng(number).bytes(200_000) for number in range(8)}
    archive = pack(tmp_path / "x.zip", contents)
    paths = list(members(archive))
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        result = pool.map_async(read, paths * (20 if method == "fork" else 1))
        for path in paths * 3:
            assert read(path) == contents[path.rpartition("/")[2]]
        for path, content in zip(paths * 20, result.get(60), strict=False):
            assert content == contents[path.rpartition("/")[2]]


def raw_table(rows: int) -> pa.Table:
    content = [wav(row) for row in range(rows)]
    content[1] = None
    return pa.table(
        {
            "audio_path": [f"audio/rock_T\u00eftle{row}.wav" for row in range(rows)],
            "track_id": [f"rock_T\u00eftle{row}" for row in range(rows)],
            "audio_bytes": pa.array(content, pa.binary()),
        }
    )


def hub_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "audio": [
                {"bytes": None if row == 1 else wav(row), "path": f"rock_T\u00eftle{row}.wav"} for row in range(rows)
            ],
            "caption": ["-"] * rows,
        }
    )


@pytest.mark.parametrize("table", [raw_table, hub_table])
def test_parquet_rows(tmp_path: Path, table: Callable[[int], pa.Table]) -> None:
    archive = tmp_path / "train-0.parquet"
    parquet.write_table(table(7), archive, row_group_size=3)
    assert names(archive) == [f"{row}/rock_T\u00eftle{row}.wav" for row in range(7)]
    for row in (6, 0, 3, 5, 2):
        path = Path(f"{archive}!/{row}/rock_T\u00eftle{row}.wav")
        assert read(path) == wav(row)
        assert 0.3 * len(wav(row)) < size_bytes(path) < 1.2 * len(wav(row))
        assert len(load_windows(path, AudioOptions()).windows[0].audio) == 3_200
    assert state_of(f"{archive}!/1/x.wav") == "missing"
    for absent in ("7/x.wav", "x.wav", "-1/x.wav"):
        assert size_bytes(Path(f"{archive}!/{absent}")) is None
        assert state_of(f"{archive}!/{absent}") == "missing"


def test_parquet_names(tmp_path: Path) -> None:
    archive = tmp_path / "a.parquet"
    content = pa.array([b"x"] * 3, pa.binary())
    parquet.write_table(pa.table({"track_id": ["rock_No.1", None, ""], "audio_bytes": content}), archive)
    assert names(archive) == ["0/rock_No.1.wav", "1/000001.wav", "2/000002.wav"]
    parquet.write_table(pa.table({"audio_bytes": content}), archive)
    assert names(archive) == ["0/000000.wav", "1/000001.wav", "2/000002.wav"]


def test_parquet_without_audio_or_damaged(tmp_path: Path) -> None:
    archive = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"question": ["?"], "path": ["a.wav"]}), archive)
    assert names(archive) == []
    assert size_bytes(Path(f"{archive}!/0/a.wav")) is None
    parquet.write_table(raw_table(7), archive)
    shutil.copy(archive, tmp_path / "b.parquet")
    archive.write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(AudioError, match="cut or damaged"):
        list(members(archive))
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[4:20_000] = bytes(19_996)
    (tmp_path / "b.parquet").write_bytes(content)
    assert state_of(f"{tmp_path}/b.parquet!/6/x.wav") == "unreadable"
