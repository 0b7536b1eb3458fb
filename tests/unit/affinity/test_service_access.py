"""Tokens, their files, and requests that other sites' pages make."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from pipeline.affinity.service.settings import ServiceSettings, is_loopback
from pipeline.affinity.service.tokens import Tokens, client_token, load_tokens, write_new_tokens
from pipeline.errors import AccessError
from tests.unit.affinity.served import READ, RUN, TOKENS, WRITE, declare, serve

OPEN = ("/", "/healthz", "/openapi.json", "/static/icon.svg")
DATA = ("/v1/runs", "/v1/versions", f"/v1/runs/{RUN}/events", "/metrics")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_new_tokens_are_for_their_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write_new_tokens(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tokens = load_tokens(path)
    assert len(tokens.read) == len(tokens.write) == 1 and tokens.read != tokens.write
    before = path.read_bytes()
    with pytest.raises(AccessError, match="already"):
        write_new_tokens(path)
    assert path.read_bytes() == before
    with pytest.raises(AccessError, match="cannot write"):
        write_new_tokens(tmp_path / "no" / "folder")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_token_files_that_others_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path / "tokens", f"write {WRITE}\n", mode)
    for use in (load_tokens, client_token):
        with pytest.raises(AccessError, match="others can") as caught:
            use(path)
        assert "chmod 600" in str(caught.value) and WRITE not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "admin " + WRITE, "write short", f"write {WRITE} more", f"write{WRITE}", "write é" + WRITE],
)
def test_other_lines_are_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(AccessError) as caught:
        load_tokens(token_file(tmp_path / "tokens", text))
    assert WRITE not in str(caught.value)


def test_token_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AccessError):
            load_tokens(path)


def test_a_job_takes_the_token_for_writing_or_the_only_one(tmp_path: Path) -> None:
    assert client_token(token_file(tmp_path / "a", f"# ours\nread {READ}\n\nwrite {WRITE}\n")) == WRITE
    assert client_token(token_file(tmp_path / "b", f"read {READ}\n")) == READ
    assert client_token(token_file(tmp_path / "c", f"{WRITE}\n")) == WRITE


def test_tokens_say_what_they_allow_and_do_not_show() -> None:
    assert [TOKENS.right_of(each) for each in (READ, WRITE, READ[:-1], "", "é" * 20)] == [
        "read",
        "write",
        None,
        None,
        None,
    ]
    assert READ not in repr(TOKENS) and WRITE not in repr(TOKENS)


def test_only_loopback_may_do_without_tokens() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert is_loopback(host)
        ServiceSettings(host=host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(AccessError, match="needs tokens"):
            ServiceSettings(host=host)
        ServiceSettings(host=host, tokens=TOKENS)


def test_data_needs_a_token_and_the_page_does_not(tmp_path: Path) -> None:
    with serve(tmp_path, tokens=TOKENS) as client:
        for path in OPEN:
            assert client.get(path).status_code == 200, path
        for path in (*DATA, "/v1/nothing", "/nothing", "/v1/../v1/runs"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", path
            assert answer.json()["error"] == "AccessError"
        for wrong in ({"Authorization": READ}, {"Authorization": f"Basic {READ}"}, bearer("x" * 20), bearer("")):
            assert client.get("/v1/runs", headers=wrong).status_code == 401
        for token in (READ, WRITE):
            assert client.get("/v1/runs", headers=bearer(token)).status_code == 200
        client.headers.update(bearer(WRITE))
        declare(client)


def test_reading_is_not_writing(tmp_path: Path) -> None:
    with serve(tmp_path, tokens=TOKENS) as client:
        client.headers.update(bearer(READ))
        for method, path in (("PUT", f"/v1/runs/{RUN}"), ("POST", f"/v1/runs/{RUN}/events"), ("DELETE", "/v1/runs")):
            answer = client.request(method, path, json=[])
            assert answer.status_code == 403 and "not write" in answer.json()["what"]
        assert client.get("/v1/runs").json() == []


def test_a_body_is_not_read_without_a_token(tmp_path: Path) -> None:
    with serve(tmp_path, tokens=Tokens(write=(WRITE,)), max_body_bytes=10) as client:
        assert client.put(f"/v1/runs/{RUN}", content=b"x" * 100).status_code == 401
        assert client.put(f"/v1/runs/{RUN}", content=b"x" * 100, headers=bearer(WRITE)).status_code == 413


def test_tokens_are_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(tmp_path, tokens=TOKENS) as client:
        for token in (READ, WRITE, "z" * 20):
            answer = client.put("/v1/runs/x", headers=bearer(token), json={"name": "y"})
            assert token not in answer.text
    assert not any(token in caplog.text for token in (READ, WRITE, "z" * 20))


def test_other_names_for_this_machine_are_refused(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        for host in ("localhost", "LOCALHOST:8377", "127.0.0.1:1", "[::1]:8377", "127.0.0.2"):
            assert client.get("/v1/runs", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "10.0.0.1"):
            for path in ("/v1/runs", "/"):
                answer = client.get(path, headers={"Host": host})
                assert answer.status_code == 403 and answer.json()["error"] == "AccessError", host
    with serve(tmp_path, tokens=TOKENS) as client:  # a proxy in front has its own name
        assert client.get("/v1/runs", headers={"Host": "gst.example", **bearer(READ)}).status_code == 200


def test_pages_of_other_sites_cannot_write(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        declare(client)
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://["):
            answer = client.post(f"/v1/runs/{RUN}/events", json=[], headers={"Origin": origin})
            assert answer.status_code == 403, origin
        own = client.post(f"/v1/runs/{RUN}/events", json=[], headers={"Origin": "http://127.0.0.1"})
        assert own.status_code == 200
        simple = client.post(f"/v1/runs/{RUN}/events", content=b"[]", headers={"Content-Type": "text/plain"})
        assert simple.status_code == 422  # what a form of another site could send without asking first
