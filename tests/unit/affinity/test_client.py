"""The client against a real store: nothing lost, nothing doubled, and never in the way of the job."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.affinity import local
from pipeline.affinity.client import AffinityClient, Pace
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.outbox import Outbox
from pipeline.affinity.records import SketchKey
from pipeline.affinity.shipping import EventShipper
from pipeline.affinity.store.lock import writer_lock
from pipeline.affinity.transport import Transport
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AccessError, UnreachableError
from pipeline.runlog import EventLog
from tests.unit.affinity.publishing import make_publication

QUICK = Pace(every_s=0.05, first_pause_s=0.02, longest_pause_s=0.1)
LONG_S = 30.0  # more than anything here takes; reached only by a failing test


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., AffinityClient]]:
    started: list[AffinityClient] = []

    def begin(connect: Callable[[], Transport] | None = None, **more) -> AffinityClient:
        outbox = more.pop("outbox", None) or Outbox(tmp_path / "outbox")
        client = AffinityClient(connect or (lambda: LocalTransport(tmp_path / "store")), outbox, pace=QUICK, **more)
        started.append(client)
        return client

    yield begin
    for client in started:
        client.close(0)


def warnings_about(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


def test_what_is_published_can_be_grouped(start, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run", 0)
    log.write("eval", step=0)
    client = start(shipper=EventShipper(log.path, make_publication().run))
    client.publish(make_publication(step=30, kind="probe"))
    client.publish(make_publication(step=50))
    assert client.close(LONG_S)
    assert client.outbox.waiting() == [] and client.sent == 2
    transport = LocalTransport(tmp_path / "store")
    (run,) = transport.runs()
    assert run.probes == (30, 50) and run.events == log.path.stat().st_size
    assert transport.probe("exp-arm-s0", 30).is_complete and transport.probe("exp-arm-s0", 50).probe.kind == "window"
    assert transport.group("exp-arm-s0", 30, AffinityConfig(groups=2, bootstrap=10)).groups


def test_a_busy_store_is_waited_for_without_holding_the_job(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local, "WAIT_S", 0.05)
    (tmp_path / "store").mkdir()
    with writer_lock(tmp_path / "store", wait_s=0):
        client = start()
        for step in range(3):
            client.publish(make_publication(step=step))
        assert not client.flush(0.5)
        assert len(client.outbox.waiting()) == 3
        assert client.trouble is not None and "another process writes" in client.trouble
    assert client.flush(LONG_S) and client.trouble is None
    assert client.outbox.waiting() == [] and client.sent == 3
    assert warnings_about(caplog, "wait until the affinity store can take them") == 1


def test_another_process_delivers_what_a_dead_one_left(start, tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox").add(make_publication(step=1))
    Outbox(tmp_path / "outbox").add(make_publication(step=2))
    assert start().flush(LONG_S)
    assert LocalTransport(tmp_path / "store").runs()[0].probes == (1, 2)


def test_a_window_that_is_there_otherwise_is_only_counted(start, caplog: pytest.LogCaptureFixture) -> None:
    client = start()
    for seed in (1, 1, 2):
        client.publish(make_publication(step=50, seed=seed))
        assert client.flush(LONG_S)
    assert (client.sent, client.superseded, client.refused) == (2, 1, [])
    assert client.outbox.waiting() == client.outbox.refused() == []
    assert not caplog.records


def test_a_probe_that_is_there_otherwise_and_a_foreign_run_are_set_aside(
    start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    client.publish(make_publication("p", 5, kind="probe", seed=1))
    again = client.publish(make_publication("p", 5, kind="probe", seed=2))
    client.publish(make_publication(digest="one"))
    client.publish(make_publication(digest="two", step=100))
    assert client.flush(LONG_S)
    assert client.sent == 2 and len(client.refused) == 2 and client.superseded == 0
    assert len(client.outbox.refused()) == 2
    assert "p" in (client.outbox.reason(again) or "")
    assert warnings_about(caplog, "does not take some sketches") == 1


def test_events_of_a_foreign_run_stay_in_the_log(start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LocalTransport(tmp_path / "store").declare_run(make_publication(digest="other").run)
    log = EventLog(tmp_path / "run", 0)
    log.write("eval", step=0)
    client = start(shipper=EventShipper(log.path, make_publication().run))
    client.publish(make_publication("another-run"))
    assert client.flush(LONG_S) and client.sent == 1
    assert warnings_about(caplog, "stay in its log alone") == 1


def test_a_damaged_item_does_not_keep_the_others(start, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    first = outbox.add(make_publication(step=1))
    outbox.add(make_publication(step=2))
    (tmp_path / "outbox" / first).write_bytes(b"rubbish")
    client = start()
    assert client.flush(LONG_S)
    assert client.sent == 1 and outbox.refused() == [first] and "damaged" in client.refused[0]


def test_wrong_settings_stop_the_sending_and_keep_everything(start, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def connect() -> Transport:
        calls.append(1)
        raise AccessError("others can read the token file")

    client = start(connect)
    client.publish(make_publication())
    started = time.monotonic()
    assert not client.flush(LONG_S) and not client.close(LONG_S)
    assert time.monotonic() - started < LONG_S / 2  # it does not wait for what cannot come
    client.publish(make_publication(step=100))
    assert len(calls) == 1 and len(client.outbox.waiting()) == 2
    assert warnings_about(caplog, "nothing is sent") == 1


def test_a_bug_is_logged_once_and_sending_goes_on(start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failures = iter([RuntimeError("a bug"), RuntimeError("a bug")])

    def connect() -> Transport:
        for failure in failures:
            raise failure
        return LocalTransport(tmp_path / "store")

    client = start(connect)
    client.publish(make_publication())
    deadline = time.monotonic() + LONG_S
    while client.outbox.waiting() and time.monotonic() < deadline:
        time.sleep(0.01)  # without a flush: it tries again by itself
    assert client.flush(LONG_S) and client.sent == 1
    assert warnings_about(caplog, "error of the affinity client") == 1


class Flaky(LocalTransport):
    """Breaks down at every second push, as a service does that has its rate limited."""

    pushed: list[str]

    def push(self, key: SketchKey, payload: bytes) -> bool:
        if len(self.pushed) % 2:
            self.pushed.append("-")
            raise UnreachableError("asks to be spared")
        self.pushed.append(key.dataset)
        return super().push(key, payload)


def test_an_interrupted_publication_goes_on_where_it_was(start, tmp_path: Path) -> None:
    Flaky.pushed = []
    client = start(lambda: Flaky(tmp_path / "store"))
    client.publish(make_publication())
    deadline = time.monotonic() + LONG_S
    while client.outbox.waiting() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Flaky.pushed == ["a", "-", "b", "-", "c"]


def test_a_window_that_cannot_be_kept_is_given_up(start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    client = start(outbox=Outbox(tmp_path / "file"))
    assert client.publish(make_publication()) is None and client.publish(make_publication()) is None
    assert warnings_about(caplog, "given up") == 1


def test_a_flush_does_not_wait_long_for_a_store_that_is_away(start) -> None:
    attempts = []

    def connect() -> Transport:
        attempts.append(1)
        raise UnreachableError("the affinity service does not answer")

    client = start(connect)
    client.publish(make_publication())
    started = time.monotonic()
    assert not client.flush(LONG_S)
    assert time.monotonic() - started < LONG_S / 2 and len(attempts) >= QUICK.flush_attempts


def test_pauses_grow_to_a_bound() -> None:
    pace = Pace(every_s=2.0, first_pause_s=0.5, longest_pause_s=60.0)
    assert [pace.pause_s(n) for n in (0, 1, 2, 3, 8, 10_000)] == [2.0, 0.5, 1.0, 2.0, 60.0, 60.0]


def test_a_store_that_hangs_keeps_no_process_from_ending(tmp_path: Path) -> None:
    code = f"""
import sys, threading, time
from pathlib import Path
from pipeline.affinity.client import AffinityClient
from pipeline.affinity.outbox import Outbox
from tests.unit.affinity.publishing import make_publication
client = AffinityClient(lambda: time.sleep(3600), Outbox(Path({str(tmp_path)!r})))
client.publish(make_publication())
print(client.close(0.2))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0 and done.stdout.strip() == "False", done.stderr
    assert len(Outbox(tmp_path).waiting()) == 1


def test_its_thread_is_a_daemon_and_ends_when_closed(start) -> None:
    client = start()
    (thread,) = [each for each in threading.enumerate() if each.name == "affinity-client" and each.is_alive()][-1:]
    assert thread.daemon
    client.close(LONG_S)
    thread.join(LONG_S)
    assert not thread.is_alive()
