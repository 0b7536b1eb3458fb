"""The digest follows what can change a run's numbers and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.cli.code_digest import ROOT, code_digest

NEUTRAL = ("pipeline/report/page.py", "pipeline/affinity/service/app.py", "pipeline/recipes/mini.yaml", "README.md")
DECIDING = ("pipeline/engine/trainer.py", "pipeline/affinity/estimator.py", "ds_configs/cpu_zero3.json")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in (*NEUTRAL, *DECIDING):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def digest(root: Path) -> str:
    return code_digest.__wrapped__(root)


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_only_reads_results_does_not_matter(copied: Path, name: str) -> None:
    before = digest(copied)
    (copied / name).write_text((copied / name).read_text() + "\n")
    (copied / name).with_name("new.py" if "pipeline" in name and "recipes" not in name else "new.txt").touch()
    (copied / "pipeline/grid").mkdir()
    (copied / "pipeline/grid/runner.py").write_text("x = 1\n")
    assert digest(copied) == before


@pytest.mark.parametrize("name", DECIDING)
def test_what_makes_results_does(copied: Path, name: str) -> None:
    before = digest(copied)
    file = copied / name
    content = file.read_text()
    file.write_text(content + "\n")
    assert digest(copied) != before
    file.write_text(content)
    assert digest(copied) == before
    file.rename(file.with_name(f"other{file.suffix}"))
    assert digest(copied) != before


def test_where_the_checkout_lies_does_not_matter(copied: Path) -> None:
    before = digest(copied)
    moved = copied.with_name("moved")
    copied.rename(moved)
    assert digest(moved) == before
    assert len(code_digest()) == 64
