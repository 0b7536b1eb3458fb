"""Bounds on size, time, rate and computations."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.affinity.service.limits import BodyLimitMiddleware, ComputeGate, parse_rate
from pipeline.errors import ConfigError, StoreBusyError
from tests.unit.affinity.served import RUN, declare, push, serve

BOUND = 2000


def test_large_requests_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    with serve(tmp_path, max_body_bytes=BOUND) as client:
        path = declare(client)
        answer = push(client, "a")
        assert answer.status_code == 413
        body = answer.json()
        assert body["error"] == "PayloadError" and str(BOUND) in body["expected"] and "--max-body-mb" in body["hint"]
        assert len(client.get(path).json()["missing"]) == 3
    with serve(tmp_path) as client:
        assert push(client, "a").status_code == 201


def test_a_body_without_an_announced_size_is_counted(tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while read < 100 * BOUND:
            read += 500
            yield b"x" * 500

    with serve(tmp_path, max_body_bytes=BOUND) as client:
        assert client.put(f"/v1/runs/{RUN}", content=endless()).status_code == 413
        small = client.put(f"/v1/runs/{RUN}", content=iter([b"{", b"}"]), headers={"Content-Type": "application/json"})
        assert small.status_code == 422


async def ask(parts: list[dict[str, Any]], timeout_s: float = 10.0) -> tuple[list[bytes], list[dict[str, Any]]]:
    """What the app behind the limit got, and what was answered, to a request whose body comes in `parts`."""
    got: list[bytes] = []
    answers: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append((await receive())["body"])

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/", "headers": []}
    await BodyLimitMiddleware(app, 10, timeout_s)(scope, receive, send)
    return got, answers


def test_the_app_gets_the_body_whole() -> None:
    parts = [{"type": "http.request", "body": each, "more_body": True} for each in (b"12345", b"", b"6789")]
    got, _ = asyncio.run(ask([*parts, {"type": "http.request", "body": b"0"}]))
    assert got == [b"1234567890"]


def test_a_body_that_never_ends_is_given_up() -> None:
    got, answers = asyncio.run(ask([{"type": "http.request", "body": b"1", "more_body": True}], timeout_s=0.05))
    assert got == [] and answers[0]["status"] == 408
    assert json.loads(answers[1]["body"])["error"] == "PayloadError"


def test_a_client_that_goes_away_reaches_nobody() -> None:
    parts = [{"type": "http.request", "body": b"1", "more_body": True}, {"type": "http.disconnect"}]
    assert asyncio.run(ask(parts)) == ([], [])


def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    with serve(tmp_path, rate="5/minute") as client:
        answers = [client.get("/v1/runs") for _ in range(6)]
        assert [each.status_code for each in answers] == [200] * 5 + [429]
        assert answers[-1].json()["error"] == "UnreachableError"
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert client.get("/healthz").status_code == 200
        assert client.get("/nothing").status_code == 429


def test_rates_in_words() -> None:
    assert parse_rate("100/second").amount == 100
    for wrong in ("", "fast", "-1/second", "10/fortnight"):
        with pytest.raises(ConfigError, match="not a rate"):
            parse_rate(wrong)


def test_one_computation_at_a_time() -> None:
    gate, running, most, seconds = ComputeGate(wait_s=30, queue=8), 0, 0, []
    lock = threading.Lock()

    def compute(_: int) -> None:
        nonlocal running, most
        with gate.turn(on_done=seconds.append):
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.005)
            with lock:
                running -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compute, range(8)))
    assert most == 1 and len(seconds) == 8


def test_waiting_for_a_computation_is_bounded() -> None:
    gate = ComputeGate(wait_s=0.01, queue=1)
    with gate.turn(), pytest.raises(StoreBusyError, match="takes long"), gate.turn():
        raise AssertionError
    full = ComputeGate(wait_s=30, queue=0)
    with full.turn(), pytest.raises(StoreBusyError, match="too many"), full.turn():
        raise AssertionError
    with pytest.raises(ZeroDivisionError), full.turn():
        raise ZeroDivisionError  # a computation that fails gives its turn back
    with full.turn():
        pass
