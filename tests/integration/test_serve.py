"""`gst serve` as people and jobs meet it: started, asked, refused, stopped."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from pipeline.affinity.http import HttpTransport
from pipeline.affinity.records import RunRecord
from pipeline.affinity.service.tokens import write_new_tokens
from pipeline.affinity.store.lock import lock_holder
from pipeline.affinity.store.store import open_store
from pipeline.cli.serve import serve
from pipeline.errors import AccessError, GstError
from tests.launching import run_command
from tests.serving import start_service
from tests.unit.affinity.served import write_run

pytestmark = pytest.mark.slow

RECORD = RunRecord(name="r", project="p", arm="a", datasets=("x",))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_service_stops_when_told_and_leaves_the_store_free(tmp_path: Path, stop: signal.Signals) -> None:
    with start_service(tmp_path) as service:
        assert lock_holder(tmp_path / "affinity")["url"] == service.url
        with HttpTransport(service.url) as transport:
            assert transport.declare_run(RECORD) is True
        service.process.send_signal(stop)
        said, _ = service.process.communicate(timeout=30)
        assert service.process.returncode == 0 and "the store is closed" in said
        assert service.log.read_text() == ""
    with open_store(tmp_path / "affinity", wait_s=0) as store:
        assert store.declare_run(RECORD) is False


def test_a_second_service_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with start_service(tmp_path) as service:
        port = service.url.rpartition(":")[2]
        for words, expected in (
            ((tmp_path, "--port", 0), ("another process writes", service.url)),
            ((tmp_path / "other", "--port", port), ("cannot listen", "--port 0")),
        ):
            done = run_command("gst", "serve", *words)
            assert done.returncode == 2 and "Traceback" not in done.stderr
            assert all(each in done.stderr for each in expected), done.stderr
        assert requests.get(f"{service.url}/healthz", timeout=10).json()["status"] == "ok"


def test_what_cannot_be_served(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("write " + "x" * 20)
    tokens.chmod(0o644)
    good = tmp_path / "good"
    write_new_tokens(good)
    file = tmp_path / "file"
    file.touch()
    for options, expected in (
        ({"folder": None}, "no such folder"),
        ({"folder": tmp_path / "absent"}, "no such folder"),
        ({"folder": file}, "no such folder"),
        ({"host": "0.0.0.0"}, "needs tokens"),
        ({"token_file": tokens}, "others can read"),
        ({"rate": "fast"}, "not a rate"),
        ({"token_file": tmp_path / "none"}, "cannot read the token file"),
        ({"host": "no host", "token_file": good}, "cannot listen"),
        ({"tls_cert": file}, "--tls-key"),
        ({"tls_cert": file, "tls_key": file}, "certificate cannot be used"),
    ):
        with pytest.raises(GstError, match=expected) as caught:
            serve(**{"folder": tmp_path, "port": 0, **options})
        assert "x" * 20 not in str(caught.value)


def test_tokens_from_the_command_to_a_job(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    for returncode in (0, 2):
        done = run_command("gst", "serve", "--new-tokens", tokens)
        assert done.returncode == returncode, done.stderr
    secrets = [line.split()[1] for line in tokens.read_text().splitlines()]
    with start_service(tmp_path, "--token-file", tokens) as service:
        with pytest.raises(AccessError, match="missing or wrong"):
            HttpTransport(service.url).runs()
        with HttpTransport(service.url, tokens) as transport:
            assert transport.declare_run(RECORD) is True
        reader = {"Authorization": f"Bearer {secrets[0]}"}
        assert requests.get(f"{service.url}/v1/runs", headers=reader, timeout=10).json()[0]["run"]["name"] == "r"
        assert requests.put(f"{service.url}/v1/runs/r", headers=reader, json={}, timeout=10).status_code == 403
        service.process.terminate()
        said, _ = service.process.communicate(timeout=30)
        assert not any(secret in said + service.log.read_text() for secret in secrets)


def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    with start_service(tmp_path, "--tls-cert", cert, "--tls-key", key) as service:
        assert service.url.startswith("https://")
        with HttpTransport(service.url) as transport:
            assert transport.declare_run(RECORD) is True


def test_an_experiment_is_followed_without_any_setup(tmp_path: Path) -> None:
    log = write_run(tmp_path, "gst-s0")
    with start_service(tmp_path) as service, requests.Session() as session:
        (run,) = session.get(f"{service.url}/v1/runs", timeout=10).json()
        assert run["followed"] and run["status"] == "running"
        address = f"{service.url}/v1/runs/{run['run']['name']}"
        for step in range(3):
            with open(log, "a") as file:
                event = {"event": "eval", "step": step, "datasets": {"a": {"loss": 3.0 - step}}}
                file.write(json.dumps(event) + "\n")
            timeline = session.get(f"{address}/timeline", timeout=10).json()
            assert [point["loss"] for point in timeline["evals"]] == [[3.0 - n] for n in range(step + 1)]
