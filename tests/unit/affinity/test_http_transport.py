"""The HTTP transport against servers that misbehave; that it behaves like the local one is the contract test's."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.affinity import http
from pipeline.affinity.http import HttpTransport
from pipeline.affinity.records import EventLine, RunRecord
from pipeline.errors import (
    AccessError,
    AffinityError,
    ConfigError,
    ConflictError,
    PayloadError,
    StoreFullError,
    UnreachableError,
)
from tests.unit.affinity.served import WRITE

RECORD = RunRecord(name="r", project="p", arm="a", datasets=("x",))
Answer = tuple[int, dict[str, str], bytes]


def refusal(kind: str, **more: Any) -> bytes:
    body = {"error": kind, "what": "no", "where": {"run": "r"}, "got": ["x/main"], "expected": None, "hint": "h"}
    return json.dumps({**body, **more}).encode()


class Scripted:
    """A server that gives prepared answers, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []  # None: hang up
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                script.asked.append((self.command, self.path, dict(self.headers.items()), body))
                given = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if given is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                status, headers, content = given
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{WRITE}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_PAUSE_S", 0.01)


@pytest.mark.parametrize(
    "failure", [None, *((status, {"Retry-After": "3600"}, b"") for status in (429, 502, 503, 504))]
)
def test_what_may_pass_is_tried_again(server: Scripted, failure: Answer | None) -> None:
    server.answers = [failure, failure, (201, {}, b'{"new": true}')]
    assert HttpTransport(server.url).declare_run(RECORD) is True
    assert len(server.asked) == 3
    assert len({body for *_, body in server.asked}) == 1


@pytest.mark.parametrize("failure", [None, (503, {}, b"")])
def test_attempts_are_bounded(server: Scripted, failure: Answer | None) -> None:
    server.answers = [failure]
    with pytest.raises(UnreachableError) as caught:
        HttpTransport(server.url, retries=2).declare_run(RECORD)
    assert len(server.asked) == 3 and caught.value.where["url"] == server.url and caught.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [(409, ConflictError), (422, PayloadError), (507, StoreFullError), (401, AccessError), (422, AffinityError)],
)
def test_refusals_are_not_repeated_and_keep_their_class(
    server: Scripted, status: int, kind: type[AffinityError]
) -> None:
    server.answers = [(status, {}, refusal(kind.__name__))]
    with pytest.raises(kind) as caught:
        HttpTransport(server.url).declare_run(RECORD)
    error = caught.value
    assert type(error) is kind and len(server.asked) == 1
    assert (error.what, error.got, error.hint) == ("no", ["x/main"], "h")
    assert error.where == {"run": "r", "url": server.url}


def test_a_service_that_asks_to_be_spared(server: Scripted) -> None:
    server.answers = [(429, {"Retry-After": "1"}, refusal("UnreachableError"))]
    with pytest.raises(UnreachableError, match="no"):
        HttpTransport(server.url, retries=1).declare_run(RECORD)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b"<html>"),
        (500, {}, refusal("RuntimeError")),
        (500, {}, refusal("KeyboardInterrupt")),
        (400, {}, b"[]"),
        (400, {}, b'{"error": ["x"]}'),
        (400, {}, refusal("PayloadError", where=3)),
        (200, {}, b"<html>a captive portal</html>"),
        (200, {}, b'{"old": true}'),
        (200, {}, b"[]"),
    ],
)
def test_what_no_affinity_service_answers(server: Scripted, answer: Answer) -> None:
    server.answers = [answer]
    transport = HttpTransport(server.url, retries=0)
    with pytest.raises(UnreachableError) as caught:
        transport.declare_run(RECORD)
    assert "gst serve" in str(caught.value)
    lines = [EventLine(position=1, event={})]
    for ask in (
        lambda: transport.probe("r", 0),
        lambda: transport.version("v-0"),
        lambda: transport.append_events("r", lines),
    ):
        with pytest.raises(UnreachableError):
            ask()


def test_redirects_are_not_followed(server: Scripted, token_file: Path) -> None:
    elsewhere = Scripted()
    elsewhere.answers = [(200, {}, b'{"new": true}')]
    server.answers = [(307, {"Location": f"{elsewhere.url}/v1/runs/r"}, b"")]
    with pytest.raises(UnreachableError, match="another address"):
        HttpTransport(server.url, token_file).declare_run(RECORD)
    assert len(server.asked) == 1 and elsewhere.asked == []
    elsewhere.close()


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="does not answer") as caught:
            HttpTransport(url, retries=1).runs()
    assert "refused" in str(caught.value) and "0x" not in str(caught.value)


def test_a_service_that_stays_silent() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UnreachableError, match="does not answer"):
            HttpTransport(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05, retries=1).runs()


def test_the_token_is_sent_as_bearer_and_nothing_else_is(
    server: Scripted, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.answers = [(200, {}, b'{"new": false}')]
    assert HttpTransport(server.url, token_file).declare_run(RECORD) is False
    HttpTransport(server.url).declare_run(RECORD)
    assert [headers.get("Authorization") for _, _, headers, _ in server.asked] == [f"Bearer {WRITE}", None]


def test_proxies_do_not_come_between_this_machine_and_itself(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.answers = [(200, {}, b"[]")]
    assert HttpTransport(server.url).runs() == []


def test_a_token_does_not_cross_a_network_in_the_clear(token_file: Path) -> None:
    with pytest.raises(AccessError, match="in the clear") as caught:
        HttpTransport("http://gpu-7.example:8377", token_file)
    assert WRITE not in str(caught.value)
    for url in ("https://gpu-7.example", "http://localhost:8377", "http://[::1]:8377"):
        HttpTransport(url, token_file)
    HttpTransport("http://gpu-7.example:8377")


@pytest.mark.parametrize(
    "url", ["", "gpu-7:8377", "ftp://x", "http://", "http:///v1", "http://x:99999", "http://[", "file:///etc/passwd"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="not the address"):
        HttpTransport(url)


def test_a_path_before_the_api_is_kept(server: Scripted) -> None:
    server.answers = [(200, {}, b"[]")]
    HttpTransport(f"{server.url}/team/").versions()
    assert server.asked[0][1] == "/team/v1/versions"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n", "ä", "x" * 129, "%2e"])
def test_names_that_could_be_paths_are_not_sent(server: Scripted, name: str) -> None:
    transport = HttpTransport(server.url)
    for ask in (lambda: transport.probe(name, 0), lambda: transport.version(name)):
        with pytest.raises(PayloadError, match="not a name"):
            ask()
    assert server.asked == []


def test_many_events_go_in_several_requests(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "EVENTS_PER_REQUEST", 2)
    server.answers = [(200, {}, b'{"position": 20}'), (200, {}, b'{"position": 30}')]
    lines = [EventLine(position=10 * n, event={"step": n}) for n in (1, 2, 3)]
    assert HttpTransport(server.url).append_events("r", lines) == 30
    sent = [json.loads(body) for *_, body in server.asked]
    assert [[each["position"] for each in some] for some in sent] == [[10, 20], [30]]
