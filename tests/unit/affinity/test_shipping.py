"""Shipping a log's lines to a real store."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.affinity.local import LocalTransport
from pipeline.affinity.records import EventLine, RunRecord
from pipeline.affinity.shipping import MAX_BYTES, MAX_LINES, EventShipper
from pipeline.affinity.store.store import open_store
from pipeline.errors import ConflictError
from pipeline.runlog import EventLog

RUN = RunRecord(name="exp-arm-s0", project="exp", arm="arm", datasets=("a",))


class Counting(LocalTransport):
    """Counts what is sent in each call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[int] = []

    def append_events(self, run: str, lines: Sequence[EventLine]) -> int:
        self.calls.append(len(lines))
        return super().append_events(run, lines)


@pytest.fixture
def transport(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store")


def stored(transport: LocalTransport) -> list[dict[str, Any]]:
    with open_store(transport.folder) as store:
        return [line.event for line in store.events(RUN.name, 0, 10_000)]


def test_new_whole_lines_arrive_once_whatever_is_restarted(transport: Counting, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", 0)
    shipper = EventShipper(log.path, RUN)
    assert EventShipper(tmp_path / "nowhere.jsonl", RUN).ship(transport) == 0
    log.write("eval", step=0, loss=float("nan"))
    for step in range(5):
        log.write("step", step=step)
    log.write("bad_sample", dataset="a", example="x", reason="broken")
    log.write("stage", step=5)
    assert shipper.ship(transport) == 2 and shipper.ship(transport) == 0
    again = EventShipper(log.path, RUN)
    log.write("eval", step=6, loss=1.0)
    assert again.ship(transport) == 1 and shipper.ship(transport) == 1  # sent twice, there once
    events = stored(transport)
    assert [(event["event"], event["step"]) for event in events] == [("eval", 0), ("stage", 5), ("eval", 6)]
    assert events[0]["loss"] is None and events[2]["loss"] == 1.0


def test_a_torn_line_waits_until_it_is_whole(transport: Counting, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = json.dumps({"event": "eval", "step": 1}).encode()
    path.write_bytes(line + b"\n" + line[:9])
    shipper = EventShipper(path, RUN)
    assert shipper.ship(transport) == 1
    with open(path, "ab") as file:
        file.write(line[9:])
    assert shipper.ship(transport) == 0
    with open(path, "ab") as file:
        file.write(b'\n{"event": "ev\n[1]\n\xff\xfe\n' + line + b"\n")  # a crash tore a line, then the log went on
    assert shipper.ship(transport) == 2
    assert len(stored(transport)) == 3


def test_batches_are_bounded_and_an_event_that_is_refused_does_not_keep_the_others(
    transport: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path / "run", 0)
    for step in range(MAX_LINES + 10):
        log.write("eval", step=step)
    shipper = EventShipper(log.path, RUN)
    assert shipper.ship(transport) == MAX_LINES + 10
    assert transport.calls == [0, MAX_LINES, 10]
    for step in range(6):
        log.write("eval", step=step, text="x" * (MAX_BYTES // 2))
    transport.calls.clear()
    assert shipper.ship(transport) == 6 and transport.calls == [1] * 6
    log.write("eval", step=1)
    log.write("sketch", step=2, text="x" * (2 * MAX_BYTES))
    log.write("sketch", step=2, text="x" * (2 * MAX_BYTES))
    log.write("eval", step=3)
    with caplog.at_level(logging.WARNING):
        assert shipper.ship(transport) == 2
    assert sum("stays in" in record.message for record in caplog.records) == 1
    assert [event["step"] for event in stored(transport)][-2:] == [1, 3]


def test_another_log_under_the_same_name_is_refused(transport: Counting, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", 0)
    log.write("eval", step=10_000)
    EventShipper(log.path, RUN).ship(transport)
    log.close()
    log.path.unlink()
    with pytest.raises(ConflictError, match="another log"):
        EventShipper(log.path, RUN).ship(transport)
    other = EventLog(tmp_path / "run", 0)
    for step in (10_001, 2, 3):  # its first line is as long as that of the deleted log
        other.write("eval", step=step)
    with pytest.raises(ConflictError, match="another log"):
        EventShipper(log.path, RUN).ship(transport)
    with open(log.path, "r+b") as file:
        file.write(b"#")  # no line of any log of ours
    with pytest.raises(ConflictError, match="another log"):
        EventShipper(log.path, RUN).ship(transport)
    assert len(stored(transport)) == 1
