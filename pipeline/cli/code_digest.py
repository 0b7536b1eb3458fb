"""A digest of the code that decides a run's numbers: runs of different code do not belong into one table."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# They read results, or serve them, and change none.
WITHOUT = ("pipeline/report", "pipeline/grid", "pipeline/affinity/service")


@cache
def code_digest(root: Path = ROOT) -> str:
    """sha256 over names and contents of the sources below `root` and the DeepSpeed configurations beside them."""
    digest = hashlib.sha256()
    for file in sorted([*root.glob("pipeline/**/*.py"), *root.glob("ds_configs/*.json")]):
        name = file.relative_to(root).as_posix()
        if not name.startswith(tuple(f"{room}/" for room in WITHOUT)):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()
