"""Start the real `gst serve` from tests."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.launching import BIN, ROOT, environment

START_S = 60.0
STOP_S = 20.0


@dataclass(frozen=True)
class Service:
    """A running service; `log` holds what it says on its standard error."""

    url: str
    process: subprocess.Popen[str]
    log: Path


@contextmanager
def start_service(folder: Path, *options: object) -> Iterator[Service]:
    """`gst serve folder` as a process, on a free port unless `options` give one, from its first answer on.

    Stopped by SIGTERM at the end; the test may have ended it before.
    """
    words = ["serve", folder, *options, *(() if "--port" in options else ("--port", 0))]
    with tempfile.TemporaryDirectory() as aside:
        log = Path(aside) / "stderr.txt"
        with open(log, "w") as errors:
            process = subprocess.Popen(
                [str(BIN / "gst"), *(str(word) for word in words)],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            yield Service(_wait_for_answer(process, log), process, log)
        finally:
            _stop(process)


def _wait_for_answer(process: subprocess.Popen[str], log: Path) -> str:
    """The address that the service prints, once it answers there."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_S
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if readable else ""
    assert "http" in line, f"the service did not start: {line}{log.read_text()}"
    url = line.split()[-1]
    with requests.Session() as session:
        session.trust_env = False
        while True:
            try:
                answer = session.get(f"{url}/healthz", timeout=5, verify=os.environ.get("REQUESTS_CA_BUNDLE", True))
                answer.raise_for_status()
                return url
            except requests.RequestException as error:
                assert process.poll() is None and time.monotonic() < deadline, f"{error}\n{log.read_text()}"
                time.sleep(0.05)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
