"""What CONTRIBUTING promises of the code, checked by the tools that define it."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")])
LONGEST_FUNCTION = 60
LONGEST_FILE = 400


@pytest.mark.parametrize("words", [("ruff", "check"), ("ruff", "format", "--check")], ids=" ".join)
def test_ruff_is_content(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *words, "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_is_left_out_because_of_its_folders_name(pytestconfig: pytest.Config) -> None:
    files = [path for top in ("pipeline", "data_prep", "tests") for path in (ROOT / top).rglob("*.py")]
    words = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {str(path) for path in files} <= set(done.stdout.splitlines())
    for folder in {path.parent.name for path in files}:
        for pattern in pytestconfig.getini("norecursedirs"):
            assert not fnmatch.fnmatch(folder, pattern), f"pytest does not look into {folder}"


@pytest.mark.slow
def test_mypy_is_content() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", CODE, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name
