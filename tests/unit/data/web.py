"""A web server over a folder, with ranges and listings, that misbehaves when told to."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

STALL_S = 600.0


class Web:
    """The server's address, what was asked of it, and what it shall do wrong.

    Attributes:
        requests: (method, path) of every request, in order.
        faults: end of a path -> what to do with the next requests for it, one each: a status, or `drop` (close without
            an answer), `cut` (half of the body that was announced), `less` (half, announced as all), `stall`.
        ranges: answer requests for a part with that part; False: with the whole file.
        listings: show what is in a folder.
        stalled: set when a `stall` was met.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, deque[str | int]] = defaultdict(deque)
        self.ranges = self.listings = True
        self.stalled = threading.Event()
        self.ended = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def gets(self, end: str) -> int:
        """How often a file was asked for."""
        return sum(method == "GET" and path.endswith(end) for method, path in self.requests)

    def fault(self, path: str) -> str | int | None:
        for end, queue in self.faults.items():
            if path.endswith(end) and queue:
                return queue.popleft()
        return None


@contextmanager
def serve(root: Path) -> Iterator[Web]:
    """A server on a free port of this machine, until the block ends."""
    web = Web(root)

    class Handler(_Handler):
        site = web

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Web

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        return None

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.requests.append((self.command, path))
        fault = self.site.fault(path) if body else None
        if isinstance(fault, int):
            self._send(fault, b"", {}, body)
        elif fault == "drop":
            self.close_connection = True
        else:
            self._send_file(path, body, fault)

    def _send_file(self, path: str, body: bool, fault: str | None) -> None:
        file = self.site.root / path.lstrip("/")
        if file.is_dir() and self.site.listings:
            names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in file.iterdir())
            links = "".join(f'<a href="{name}">{name}</a>' for name in ["../", *names])
            self._send(200, links.encode(), {"Content-Type": "text/html"}, body)
            return
        if not file.is_file():
            self._send(404, b"", {}, body)
            return
        content, status, headers = file.read_bytes(), 200, {"Content-Type": "application/octet-stream"}
        wanted = self.headers.get("Range")
        if wanted and self.site.ranges:
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            if first >= len(content):
                self._send(416, b"", {}, body)
                return
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        if fault == "less":
            content = content[: len(content) // 2]
        self._send(status, content, headers, body, fault)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool, fault: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if fault in ("cut", "stall"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
        if fault == "stall":
            self.site.stalled.set()
            self.site.ended.wait(STALL_S)
        elif fault != "cut":
            self.wfile.write(content)
