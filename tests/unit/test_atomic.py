"""Folders that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.atomic import folder_atomic


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for number in ("1", "2"):
        with folder_atomic(tmp_path / "model") as draft:
            (draft / number).write_text(number)
            assert content(tmp_path / "model") == ({} if number == "1" else {"1": "1"})
    assert content(tmp_path) == {"model/2": "2"}


def test_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    with folder_atomic(tmp_path / "model") as draft:
        (draft / "1").write_text("1")
    with pytest.raises(RuntimeError, match="no more"), folder_atomic(tmp_path / "model") as draft:
        (draft / "2").write_text("2")
        raise RuntimeError("no more")
    assert content(tmp_path) == {"model/1": "1"}


def test_a_killed_writer_leaves_the_old_one_and_the_next_removes_its_draft(tmp_path: Path) -> None:
    with folder_atomic(tmp_path / "model") as draft:
        (draft / "1").write_text("1")
    script = (
        "import os, pathlib, sys\nfrom pipeline.atomic import folder_atomic\n"
        "with folder_atomic(pathlib.Path(sys.argv[1])) as draft:\n"
        "    (draft / '2').write_text('2')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "model")], check=False)
    assert killed.returncode == -9
    assert content(tmp_path / "model") == {"1": "1"}
    with folder_atomic(tmp_path / "model") as draft:
        (draft / "3").write_text("3")
    assert content(tmp_path) == {"model/3": "3"}
