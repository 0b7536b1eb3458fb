"""The house: which room may import which. When the drawing no longer fits, change it here in the same step."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# room -> rooms of ours it may import. `errors`, `types`, `atomic` and `locks` are open to all rooms.
FOUNDATION = {"errors", "types", "atomic", "locks"}
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
    "atomic": set(),
    "locks": set(),
    "config": set(),
    "dist": set(),
    "lifeline": {"dist"},
    "stopping": {"dist"},
    "runlog": {"config", "dist"},
    "data": {"config", "dist", "runlog"},
    "models": {"config"},
    "sketch": {"config", "dist"},
    "affinity": {"config", "runlog"},
    "schedule": {"config", "affinity", "data.mixture"},
    "engine": {"config", "dist", "lifeline", "stopping", "runlog", "models"},
    "eval": {"config", "dist", "data", "models"},
    "report": {"config", "runlog"},
    "grid": {"config", "runlog"},
    "cli": {
        "config", "dist", "lifeline", "stopping", "runlog", "data", "models", "sketch", "affinity", "schedule",
        "engine", "eval", "report", "grid",
    },
}  # fmt: skip
WITHOUT_TORCH = ("affinity", "report", "grid", "errors", "types", "atomic", "locks", "data/manifest.py")
# The rooms of data_prep; `output` is open to all of them, and `cli` may import all.
DATA_PREP_ROOMS = {
    "output": set(),
    "archives": set(),
    "audio": {"archives"},
    "adapters": {"archives"},
    "planning": {"archives", "audio", "adapters"},
    "shards": {"audio", "adapters", "planning"},
    "look": {"audio", "planning", "shards"},
    "mini": set(),
}  # fmt: skip
DATA_PREP_MAY_IMPORT = {"pipeline.data.manifest", "pipeline.errors", "pipeline.types", "pipeline.atomic"}


def modules_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported_modules(file: Path) -> list[str]:
    """Every module a file names in an import, also inside functions and under TYPE_CHECKING."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", modules_below(ROOT / "pipeline"), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_room_imports_only_what_the_table_allows(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        return
    allowed = {f"pipeline.{name}" for name in MAY_IMPORT[room] | FOUNDATION | {room}}
    for name in imported_modules(file):
        if not name.startswith("pipeline.") and name != "pipeline":
            assert not name.startswith("data_prep"), f"{file} imports data_prep"
            continue
        assert any(name == ok or name.startswith(f"{ok}.") for ok in allowed) or any(
            ok.startswith(f"{name}.") for ok in allowed
        ), f"{file} imports {name}"


@pytest.mark.parametrize("file", modules_below(ROOT / "data_prep"), ids=lambda f: str(f.relative_to(ROOT)))
def test_data_prep_knows_only_the_contract(file: Path) -> None:
    for name in imported_modules(file):
        if name.startswith("pipeline"):
            assert any(name == ok or name.startswith(f"{ok}.") or ok.startswith(f"{name}.") for ok in
                       DATA_PREP_MAY_IMPORT), f"{file} imports {name}"  # fmt: skip


@pytest.mark.parametrize("file", modules_below(ROOT / "data_prep"), ids=lambda f: str(f.relative_to(ROOT)))
def test_data_prep_keeps_its_own_table(file: Path) -> None:
    room = file.relative_to(ROOT / "data_prep").parts[0].removesuffix(".py")
    if room in ("cli", "__init__"):
        return
    allowed = DATA_PREP_ROOMS[room] | {room, "output"}
    for name in imported_modules(file):
        parts = name.split(".")
        if parts[0] == "data_prep" and len(parts) > 1:
            assert parts[1] in allowed, f"{room} may not import {name}"


def test_only_the_engine_imports_deepspeed() -> None:
    for file in modules_below(ROOT / "pipeline"):
        if room_of(file) != "engine":
            names = imported_modules(file)
            assert not any(name == "deepspeed" or name.startswith("deepspeed.") for name in names), file


@pytest.mark.parametrize("place", WITHOUT_TORCH)
def test_some_rooms_do_without_torch(place: str) -> None:
    path = ROOT / "pipeline" / place
    files = modules_below(path) if path.is_dir() else [path if path.suffix else path.with_suffix(".py")]
    assert files
    for file in files:
        assert not any(name.split(".")[0] == "torch" for name in imported_modules(file)), file


@pytest.mark.parametrize("module", ["pipeline.report.build", "pipeline.affinity.versions", "pipeline.data.manifest"])
def test_torch_does_not_come_in_by_the_back_door(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_import_cycle() -> None:
    """Between modules, imports inside functions included; what is imported for types alone does not count."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in modules_below(ROOT / "pipeline") + modules_below(ROOT / "data_prep")
    }
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text())
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
        graph[name] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[name] |= {part if part in files else node.module for part in inner}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
    graph = {name: {each for each in imports if each in files and each != name} for name, imports in graph.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the modules of a cycle
