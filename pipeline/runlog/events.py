"""What a run's event log really says, after crashes, resumes and restarts.

The log is written by a process that may be killed at any moment and started again, so it can hold torn lines and
stretches that a later resume has made void.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_event_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole events of a log in file order, and how many lines were torn by a crash."""
    if not path.exists():
        return [], 0
    events, torn = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            events.append({**event, "event": event["event"]})
        except (ValueError, KeyError, TypeError):
            torn += 1
    return events, torn


def effective_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that count, in step order.

    After a `resume` at step s, what was written before for later steps is void. A step that falls back without a
    `resume` is a start from scratch (no checkpoint existed yet, or a fresh run was asked for): everything from that
    step on is void. Of two events of one kind at one step the later one counts.
    """
    kept: list[dict[str, Any]] = []
    for event in events:
        step = event.get("step")
        if step is None:
            continue
        if event["event"] == "resume":
            kept = [old for old in kept if old["step"] <= step]
            continue
        if kept and step < kept[-1]["step"]:
            kept = [old for old in kept if old["step"] < step]
        kept.append(event)
    latest = {(event["event"], event.get("split"), event["step"]): event for event in kept}
    return list(latest.values())


def count_skipped(folder: Path) -> dict[str, int]:
    """Examples that could not be used, per dataset, each counted once over all ranks and resumes."""
    seen = {
        (str(event.get("dataset")), str(event.get("example")))
        for path in sorted(folder.glob("events-rank*.jsonl"))
        for event in read_event_lines(path)[0]
        if event["event"] == "bad_sample"
    }
    return dict(sorted(Counter(dataset for dataset, _ in seen).items()))
