"""The outbox: in order, whole or not at all, shared by processes, bounded."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.outbox import Outbox
from pipeline.errors import PayloadError, StoreFullError
from tests.unit.affinity.publishing import DATASETS, add_numbered, make_publication


def steps_of(outbox: Outbox) -> list[int]:
    return [publication.probe.step for name in outbox.waiting() if (publication := outbox.read(name))]


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    outbox, sent = Outbox(tmp_path / "outbox"), make_publication(kind="probe")
    read = outbox.read(outbox.add(sent))
    assert read is not None
    assert (read.run, read.probe, read.contributor) == (sent.run, sent.probe, "main")
    assert read.stats.datasets == list(DATASETS) and read.stats.spec == sent.stats.spec
    assert read.stats.batches is not None and sent.stats.batches is not None
    for got, want in zip(read.stats.batches, sent.stats.batches, strict=True):
        assert np.array_equal(got, want)


def test_items_keep_their_order_over_restarts_and_removals(tmp_path: Path) -> None:
    assert Outbox(tmp_path).waiting() == []
    for step in range(12):
        Outbox(tmp_path).add(make_publication(step=step))
    outbox = Outbox(tmp_path)
    assert steps_of(outbox) == list(range(12))
    for name in outbox.waiting()[:11]:
        outbox.remove(name)
    outbox.add(make_publication(step=99))
    outbox.remove(outbox.waiting()[-1])
    outbox.add(make_publication(step=100))
    assert steps_of(outbox) == [11, 100]
    assert outbox.read("0000000001-window-00000000.item") is None


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_numbered, args=(str(tmp_path), 20, run)) for run in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    outbox = Outbox(tmp_path)
    found: dict[str, list[int]] = {"one": [], "two": []}
    for name in outbox.waiting():
        publication = outbox.read(name)
        assert publication is not None
        found[publication.run.name].append(publication.probe.step)
    assert found == {"one": list(range(20)), "two": list(range(20))}


def test_a_killed_writer_leaves_whole_items_only(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pipeline.affinity.outbox import Outbox
from tests.unit.affinity.publishing import make_publication
outbox, item, step = Outbox(Path({str(tmp_path)!r})), make_publication(), 0
while True:
    outbox.add(make_publication(step=step)); step += 1
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    while len(list(tmp_path.glob("*.item"))) < 5:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    leftover = tmp_path / f".0000009999-window-x.item.{process.pid}.{os.uname().nodename}.tmp"
    leftover.write_bytes(b"half")
    outbox = Outbox(tmp_path)
    steps = steps_of(outbox)
    assert steps == list(range(len(steps))) and len(steps) >= 5
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-7], "not those that were written"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "not those that were written"),
        (lambda content: content[:40], "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: content.replace(b'"format": 1', b'"format": 9', 1), "format 9"),
        (lambda content: content.replace(b'"step": 50', b'"step": -1', 1), "ValidationError"),
    ],
)
def test_a_damaged_item_is_told_and_moved_aside(tmp_path: Path, damage, reason: str) -> None:
    outbox = Outbox(tmp_path)
    name = outbox.add(make_publication())
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PayloadError, match=reason):
        outbox.read(name)
    outbox.refuse(name, "it is damaged")
    assert outbox.waiting() == [] and outbox.refused() == [name]
    assert outbox.reason(name) == "it is damaged" and outbox.reason("other") is None
    outbox.refuse(name, "again")  # another process did it already
    assert outbox.refused() == [name]


def test_beyond_its_bound_the_oldest_windows_go_and_no_probe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = (tmp_path / "size" / Outbox(tmp_path / "size").add(make_publication())).stat().st_size
    outbox = Outbox(tmp_path / "outbox", limit_bytes=int(4.5 * size))
    outbox.add(make_publication(step=0, kind="probe"))  # with its micro-batches, so larger than a window
    outbox.refuse(outbox.add(make_publication(step=1)), "no")
    with caplog.at_level(logging.WARNING):
        for step in range(2, 8):
            outbox.add(make_publication(step=step))
    steps = steps_of(outbox)
    assert steps[0] == 0 and steps[1:] == list(range(8 - len(steps[1:]), 8))
    assert outbox.dropped == 7 - len(steps[1:]) > 0
    assert outbox.refused() == []
    assert sum(path.stat().st_size for path in outbox.folder.glob("*.item")) <= 4.5 * size
    assert sum("oldest windows are dropped" in record.message for record in caplog.records) == 1


def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(StoreFullError, match="outbox cannot be written"):
        Outbox(tmp_path / "outbox").add(make_publication())
