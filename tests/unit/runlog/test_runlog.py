"""The event log survives a kill."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.runlog import EventLog
from pipeline.runlog.events import read_event_lines


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=1)
    log.write("step", step=1)
    log.write("step", step=2)
    log.close()
    torn = log.path.read_text()[:-4]
    log.path.write_text(torn)
    again = EventLog(tmp_path, rank=1)
    again.write("resume", step=1)
    again.close()
    events = read_event_lines(tmp_path / "events-rank1.jsonl")[0]
    assert [(event["event"], event["step"]) for event in events] == [("step", 1), ("resume", 1)]


def test_what_was_written_is_given_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=0)
    written = log.write("step", step=1, loss=0.1 + 0.2)
    log.close()
    assert written == json.loads(log.path.read_text())
