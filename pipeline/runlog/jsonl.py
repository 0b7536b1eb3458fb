"""Per-rank event log: one JSON object a line. It is the truth; everything else (MLflow, report) is derived from it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to `<run>/events-rank<r>.jsonl`; every line is flushed, so a killed run loses nothing."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.path = run_dir / f"events-rank{rank}.jsonl"
        _end_torn_line(self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append an event; returns it as it was written."""
        written = {"event": event, "t": round(time.time(), 3), **fields}
        self._file.write(json.dumps(written) + "\n")
        self._file.flush()
        return written

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _end_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n")
