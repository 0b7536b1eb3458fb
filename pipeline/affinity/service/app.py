"""The service put together: routes, the page's files, and what stands before them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi import Path as InPath
from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE

from pipeline.affinity.service.access import AccessMiddleware
from pipeline.affinity.service.follow import Follower
from pipeline.affinity.service.headers import HeadersMiddleware
from pipeline.affinity.service.limits import BodyLimitMiddleware, ComputeGate, RateLimitMiddleware, parse_rate
from pipeline.affinity.service.metrics import Metrics, MetricsMiddleware
from pipeline.affinity.service.replies import install_error_handlers, unchanged
from pipeline.affinity.service.routes import errors, probe_routes, run_routes, version_routes
from pipeline.affinity.service.runs import HasRuns, RunBook
from pipeline.affinity.service.schemas import ErrorBody, Health
from pipeline.affinity.service.settings import VERSION, ServiceSettings
from pipeline.affinity.transport import Transport
from pipeline.errors import MissingError

PAGE = Path(__file__).parent / "page"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class ServedStore(Transport, HasRuns, Protocol):
    """What the service asks of a store: what jobs ask, and what the page shows besides."""


def build_app(store: ServedStore, settings: ServiceSettings) -> FastAPI:
    """The service's application over `store`, which stays open and the caller's."""
    metrics = Metrics(store)
    gate = ComputeGate(settings.compute_wait_s, settings.compute_queue)
    follower = None if settings.experiment is None else Follower(settings.experiment)
    app = FastAPI(
        title="audio-gst affinity service",
        version=VERSION,
        description="Gradient sketches in, affinity versions and training events out.",
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
    )
    install_error_handlers(app)
    app.include_router(run_routes(store, RunBook(store, follower)))
    app.include_router(probe_routes(store, metrics, gate))
    app.include_router(version_routes(store))
    _add_plain_routes(app, metrics)
    _describe_tokens(app)
    # The one that is added last meets a request first.
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(AccessMiddleware, tokens=settings.tokens)
    app.add_middleware(RateLimitMiddleware, rate=parse_rate(settings.rate))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(HeadersMiddleware)
    return app


def _add_plain_routes(app: FastAPI, metrics: Metrics) -> None:
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in _MEDIA_TYPES}

    def page_file(name: str, request: Request) -> Response:
        """A file of the page, or 304 when the browser has it; MissingError for every other name."""
        if name not in files:
            raise MissingError("the page has no such file", got=name[:100])
        content = files[name].read_bytes()
        tag = hashlib.sha256(content).hexdigest()[:16]
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
        return unchanged(request, headers) or Response(
            content, media_type=_MEDIA_TYPES[files[name].suffix], headers=headers
        )

    limited: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (403, 413, 429)}
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}, 422: {"model": ErrorBody}, **limited}

    @app.get("/healthz", tags=["service"], responses=limited)
    def healthz() -> Health:
        """Whether the service answers."""
        return Health(version=VERSION)

    @app.get("/metrics", tags=["service"], response_class=Response, responses={**errors(), 200: _content("text/plain")})
    def prometheus() -> Response:
        """The service's numbers for Prometheus."""
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/", tags=["page"], response_class=Response, responses={**missing, 200: _content("text/html")})
    def page(request: Request) -> Response:
        """The page."""
        return page_file("index.html", request)

    @app.get("/static/{name}", tags=["page"], response_class=Response, responses={**missing, 200: _content("*/*")})
    def static(name: Annotated[str, InPath()], request: Request) -> Response:
        """A file of the page, out of a fixed list: `name` is looked up, never made into a path."""
        return page_file(name, request)


def _content(media_type: str) -> dict[str, Any]:
    return {"content": {media_type: {"schema": {"type": "string"}}}}


def _describe_tokens(app: FastAPI) -> None:
    """Say in the OpenAPI document that data needs a token where the service has tokens."""
    schema = app.openapi()
    schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        if path.startswith("/v1/") or path == "/metrics":
            for operation in operations.values():
                operation["security"] = [{"token": []}, {}]
