"""Bounds on what clients may ask for: size and time of a request's body, requests per second, computations at once."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.affinity.service.replies import error_response
from pipeline.errors import ConfigError, PayloadError, StoreBusyError, UnreachableError


class BodyLimitMiddleware:
    """Reads a request's whole body before the app sees it: within a size and a time, else 413 or 408.

    Bodies are stored or parsed whole anyway; read here, each is bounded in one place, whatever its route.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check_announced(Headers(scope=scope).get("content-length"))
            body = await asyncio.wait_for(self._read(receive), self._timeout_s)
        except PayloadError as error:
            await error_response(error, status=413, headers={"Connection": "close"})(scope, receive, send)
        except TimeoutError:
            late = PayloadError("the request's body took too long to arrive", expected=f"within {self._timeout_s:g} s")
            await error_response(late, status=408, headers={"Connection": "close"})(scope, receive, send)
        else:
            if body is not None:
                await self.app(scope, _replay(body, receive), send)

    def _check_announced(self, length: str | None) -> None:
        if length is not None and length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large(f"{length[:20]} bytes")

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None when the client went away."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes} bytes")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self, got: str) -> PayloadError:
        return PayloadError(
            "the request is too large",
            got=got,
            expected=f"at most {self._max_bytes} bytes",
            hint="who runs the service can raise --max-body-mb",
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


class RateLimitMiddleware:
    """Refuses a client address that asks too often, with 429 and the seconds to wait."""

    def __init__(self, app: ASGIApp, rate: RateLimitItem, free_paths: frozenset[str] = frozenset({"/healthz"})) -> None:
        self.app = app
        self._rate = rate
        self._free_paths = free_paths
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._free_paths:
            await self.app(scope, receive, send)
            return
        client = (scope.get("client") or ("unknown",))[0]
        if self._limiter.hit(self._rate, client):
            await self.app(scope, receive, send)
            return
        wait_s = max(1, math.ceil(self._limiter.get_window_stats(self._rate, client).reset_time - time.time()))
        error = UnreachableError("the service asks to be spared for a while", expected=f"at most {self._rate}")
        await error_response(error, status=429, headers={"Retry-After": str(wait_s)})(scope, receive, send)


def parse_rate(rate: str) -> RateLimitItem:
    """What `rate` says, such as `100/second`.

    Raises:
        ConfigError: it says nothing.
    """
    try:
        return parse(rate)
    except ValueError as error:
        raise ConfigError("not a rate", got=rate, expected="such as 100/second or 2000/minute") from error


class ComputeGate:
    """Lets one computation run at a time; some others wait a bounded time for it."""

    def __init__(self, wait_s: float, queue: int) -> None:
        self._wait_s = wait_s
        self._places = threading.BoundedSemaphore(queue + 1)
        self._turn = threading.Lock()

    @contextmanager
    def turn(self, on_done: Callable[[float], None] = lambda _: None) -> Iterator[None]:
        """Hold the turn; `on_done` gets the seconds it was held.

        Raises:
            StoreBusyError: too many wait already, or the wait was too long.
        """
        if not self._places.acquire(blocking=False):
            raise StoreBusyError("too many computations wait already", hint="ask again in a minute")
        try:
            if not self._turn.acquire(timeout=self._wait_s):
                raise StoreBusyError(
                    "another computation takes long",
                    expected=f"a turn within {self._wait_s:g} s",
                    hint="ask again later",
                )
            started = time.monotonic()
            try:
                yield
            finally:
                self._turn.release()
                on_done(time.monotonic() - started)
        finally:
            self._places.release()
