"""Who may do what: tokens, and nobody by way of a browser that visits another site.

The page and its files hold no data and need no token; everything else does when the service has tokens. A service
without tokens listens on loopback only, and is careful with browsers: the `Host` header must name loopback, because a
site may let its own name point to 127.0.0.1 (DNS rebinding) but cannot forge the header, and writes with the `Origin`
of another site are refused. Where there are tokens, another site's page has none; there the `Host` header may say
anything, so that a proxy that speaks TLS can stand in front.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.affinity.service.replies import error_response
from pipeline.affinity.service.settings import is_loopback
from pipeline.affinity.service.tokens import Tokens
from pipeline.errors import AccessError

_OPEN_PATHS = frozenset({"/", "/healthz", "/openapi.json"})
_OPEN_FOLDER = "/static/"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessMiddleware:
    """Lets a request through when its token, or its host and origin, are right; otherwise 401 or 403."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None) -> None:
        self.app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = _stranger(scope) if self._tokens is None else _without_right(scope, self._tokens)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, error = refusal
        challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await error_response(error, status=status, headers=challenge)(scope, receive, send)


def _stranger(scope: Scope) -> tuple[int, AccessError] | None:
    """Why this request may come from another site's page, if it may."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not is_loopback(_split(f"//{host}").hostname or ""):
        return 403, AccessError(
            "this service answers only to names of this machine's loopback interface",
            got=host[:100],
            expected="localhost or 127.0.0.1 in the Host header",
        )
    origin = headers.get("origin")
    if origin is not None and scope["method"] not in _READING and _split(origin).netloc != host:
        return 403, AccessError("another site's page cannot write here", got=origin[:100])
    return None


def _without_right(scope: Scope, tokens: Tokens) -> tuple[int, AccessError] | None:
    """Why the request's token does not suffice, if it does not."""
    path = scope["path"]
    if path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
        return None
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    right = tokens.right_of(token.strip()) if scheme.lower() == "bearer" else None
    if right is None:
        return 401, AccessError(
            "a token is missing or wrong",
            expected="Authorization: Bearer <token>",
            hint="ask who runs the service for a token, and put it into a file of mode 600",
        )
    if right == "read" and scope["method"] not in _READING:
        return 403, AccessError("this token may read but not write", expected="a token for writing")
    return None


def _split(address: str) -> SplitResult:
    """The parts of an address; all empty for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
