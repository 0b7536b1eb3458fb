"""What the service answers: JSON without NaN, and one form for every error.

{"error": class name, "what": ..., "where": {...}, "got": ..., "expected": ..., "hint": ...}
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pipeline.affinity.service.headers import SECURITY_HEADERS
from pipeline.affinity.service.json_values import finite
from pipeline.errors import (
    AccessError,
    AffinityError,
    ConflictError,
    GstError,
    MissingError,
    PayloadError,
    StoreBusyError,
    StoreFullError,
    UnreachableError,
)

BUSY_RETRY_S = 2
_LONGEST_ECHO = 400  # characters of what a client sent that come back to it
_MOST_ECHOES = 20

_STATUS: dict[type[GstError], int] = {
    PayloadError: 422,
    ConflictError: 409,
    MissingError: 404,
    StoreFullError: 507,
    StoreBusyError: 503,
    UnreachableError: 503,
    AccessError: 403,
    AffinityError: 422,
}
# What the framework itself refuses, in the words of our errors; every other client error is a PayloadError.
_PLAIN_WORDS = {404: "there is nothing at this address", 405: "this address does not take this method"}
_OWN_NAME: dict[int, type[GstError]] = {404: MissingError, 503: StoreBusyError}

_LOG = logging.getLogger("pipeline.affinity.service")


class FiniteJson(JSONResponse):
    """JSON in which NaN and infinity are null (JSON has neither), and text that is not Unicode is escaped."""

    def render(self, content: Any) -> bytes:
        try:
            return _dump(content)
        except ValueError:
            return _dump(finite(content))


def _dump(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def status_of(error: GstError) -> int:
    """The HTTP status that says `error`."""
    if isinstance(error, MissingError) and isinstance(error.got, list | tuple):
        return 409  # the probe is there, and lists what it still waits for
    if type(error) is AffinityError and isinstance(error.__cause__, OSError | sqlite3.Error):
        return 500  # the store's folder or database, not the request
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def error_response(error: GstError, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """`error` as an answer; `status` overrides the usual one."""
    status = status_of(error) if status is None else status
    more = dict(headers or {})
    if status in (429, 503):
        more.setdefault("Retry-After", str(BUSY_RETRY_S))
    body = {
        "error": type(error).__name__,
        "what": error.what,
        "where": {name: _plain(value) for name, value in error.where.items()},
        "got": _plain(error.got),
        "expected": _plain(error.expected),
        "hint": error.hint,
    }
    return FiniteJson(body, status_code=status, headers=more)


def unchanged(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 when the client has already what the `ETag` in `headers` names; None when it must be sent."""
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    return Response(status_code=304, headers=dict(headers)) if headers["ETag"] in known else None


def install_error_handlers(app: FastAPI) -> None:
    """Let every error leave the app in one form. Unexpected ones are raised again for the server to log."""

    @app.exception_handler(GstError)
    def typed(_: Request, error: GstError) -> Response:
        if status_of(error) >= 500:
            _LOG.warning("%s", error)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(_described(error))

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> Response:
        kind = _OWN_NAME.get(error.status_code, PayloadError)
        what = _PLAIN_WORDS.get(error.status_code, str(error.detail))
        return error_response(kind(what), status=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> Response:
        # The framework sends this one from outside of the middleware that adds the headers.
        told = GstError("the service failed at this request", hint="see the service's log")
        return error_response(told, status=500, headers=SECURITY_HEADERS)


def _described(error: RequestValidationError) -> PayloadError:
    """Which values are wrong, and why; what was sent comes back shortened."""
    found = error.errors()
    wrong = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in found[:_MOST_ECHOES]]
    if len(found) > _MOST_ECHOES:
        wrong.append(f"... and {len(found) - _MOST_ECHOES} more")
    return PayloadError("the request is not what it must be", got="; ".join(line[:_LONGEST_ECHO] for line in wrong))


def _plain(value: object) -> Any:
    """`value` as JSON: paths and other objects become text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return str(value)
