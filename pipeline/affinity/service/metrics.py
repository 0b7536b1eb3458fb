"""What Prometheus may ask: requests, pushes, computations and the store's sizes, in a registry of the service's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.affinity.service.settings import VERSION
from pipeline.affinity.transport import Transport
from pipeline.errors import GstError

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LATENCY_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The service's numbers. Labels take few values: routes as they are declared, known methods, statuses."""

    def __init__(self, store: Transport) -> None:
        self.registry = CollectorRegistry()
        self._store = store
        self._requests = Counter(
            "gst_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "gst_request_seconds",
            "Time from a request's head to its whole answer.",
            ("route", "method"),
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._pushes = Counter(
            "gst_pushes", "Pushed sketches that were new, repeated or refused.", ("outcome",), registry=self.registry
        )
        self._computations = Counter(
            "gst_computations", "Versions asked for, by how it ended.", ("outcome",), registry=self.registry
        )
        self._compute_seconds = Counter(
            "gst_computation_seconds", "Time spent on versions that were asked for.", registry=self.registry
        )
        self._sizes = Gauge("gst_store_items", "What the store holds.", ("kind",), registry=self.registry)
        Info("gst_build", "The running version.", registry=self.registry).info({"version": VERSION})
        for outcome in ("new", "repeated", "refused"):
            self._pushes.labels(outcome)
        for outcome in ("done", "refused"):
            self._computations.labels(outcome)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def push(self, *, is_new: bool) -> None:
        self._pushes.labels("new" if is_new else "repeated").inc()

    @contextmanager
    def counting_refused_pushes(self) -> Iterator[None]:
        try:
            yield
        except GstError:
            self._pushes.labels("refused").inc()
            raise

    @contextmanager
    def counting_computations(self) -> Iterator[None]:
        outcome = "refused"
        try:
            yield
            outcome = "done"
        finally:
            self._computations.labels(outcome).inc()

    def computed(self, seconds: float) -> None:
        self._compute_seconds.inc(seconds)

    def render(self) -> bytes:
        """All numbers in Prometheus' text format."""
        runs = self._store.runs()
        self._sizes.labels("runs").set(len(runs))
        self._sizes.labels("probes").set(sum(len(run.probes) for run in runs))
        self._sizes.labels("versions").set(len(self._store.versions()))
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts and times every request, refused ones too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        status = 499  # the client went away before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, scope["method"], status, time.monotonic() - started)
