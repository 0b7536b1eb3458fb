"""The service under requests nobody would send by hand: made from its own OpenAPI, and paths with tricks in them."""

from __future__ import annotations

import hashlib
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from pipeline.affinity.http import HttpTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import EventLine, SketchKey
from pipeline.affinity.service.app import build_app
from pipeline.affinity.service.settings import ServiceSettings
from pipeline.affinity.store.store import AffinityStore, open_store
from pipeline.affinity.versions import AffinityVersion, dump_version
from pipeline.config.schema import AffinityConfig
from tests.serving import start_service
from tests.unit.affinity.publishing import make_publication

RUN, STEP = "exp-arm-s0", 50
EXAMPLES = 40  # for each operation and kind of request
LOOPBACK = {"Host": "127.0.0.1"}


def fill(store: AffinityStore) -> AffinityVersion:
    """A store as jobs leave it: a run with events, a whole probe, a version."""
    publication = make_publication(RUN, STEP, kind="probe")
    probe = publication.probe
    store.declare_run(publication.run)
    store.declare_probe(probe)
    for dataset in probe.datasets:
        key = SketchKey(run=RUN, step=STEP, dataset=dataset, spec=probe.spec_digest)
        store.push(key, dump_contribution(publication.stats, dataset))
    store.append_events(RUN, [EventLine(position=100, event={"event": "eval", "step": 0, "datasets": {}})])
    return store.group(RUN, STEP, AffinityConfig(groups=2, bootstrap=20))


def files_of(folder: Path) -> dict[str, str]:
    """Digest of every file of versions and blobs."""
    kept = [*folder.glob("v-*"), *folder.glob("blobs/*/*.safetensors")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AffinityStore]:
    folder = tmp_path_factory.mktemp("served")
    with open_store(folder / "affinity") as store:
        version = fill(store)
        before = files_of(store.folder)
        yield store
        assert version.id in [each.id for each in store.versions()]
    after = files_of(folder / "affinity")
    assert before.items() <= after.items()
    with open_store(folder / "affinity") as again:  # and what the fuzzer left can be read
        assert again.version(version.id).document() == version.document()
        assert again.group(RUN, STEP, AffinityConfig(groups=2, bootstrap=20)).id == version.id
        assert RUN in [status.run.name for status in again.runs()]


@pytest.fixture(scope="module")
def schema(store: AffinityStore) -> BaseSchema:
    app = build_app(store, ServiceSettings(rate="100000/second"))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=LOOPBACK)


def aim(case: Case, there: dict[str, Any], payloads: dict[str, bytes]) -> None:
    """Send about half of the requests to what is there, and let bodies fit addresses, so that handlers get far."""
    path = case.path_parameters
    if zlib.crc32(repr(path).encode()) % 2:
        path.update({name: there[name] for name in path if name in there})
    if "spec" in case.query:
        case.query["spec"] = there["spec"]
    if case.method == "PUT" and isinstance(case.body, dict):
        named = {"run": path["run"], "step": path.get("step"), "spec": {"k": 8}}
        case.body.update({"name": path["run"]} if "project" in case.body else named)
    elif case.method == "PUT":
        whole = payloads["version" if "version" in path else "sketches"]
        end = str(case.body).encode()
        case.body = whole if len(end) % 2 else whole[: -len(end)] + end


# What a JSON schema cannot say (names given twice, bytes that are no safetensors, dimensions that differ) makes a
# request wrong that the schema calls valid; the store's own tests say that the refusals are right.
WRITES = ("PUT", "POST")


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_service_keeps_its_own_word(schema: BaseSchema, store: AffinityStore, mode: GenerationMode) -> None:
    """Whether a request is valid or not: no 5xx, only documented statuses, answers of the documented form."""
    version = store.versions()[0].id
    publication = make_publication(RUN, STEP, kind="probe")
    payloads = {"version": dump_version(store.version(version)), "sketches": dump_contribution(publication.stats, "a")}
    there = {"run": RUN, "step": STEP, "dataset": "a", "contributor": "main", "spec": publication.probe.spec_digest}
    there |= {"version": version, "other": version, "name": "index.html"}
    load_all_checks()
    for found in schema.get_all_operations():

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=found.ok().as_strategy(generation_mode=mode))
        def keeps_its_word(case: Case) -> None:
            if mode is GenerationMode.POSITIVE:
                aim(case, there, payloads)
            unsaid = [CHECKS.get_one("positive_data_acceptance")] if case.method in WRITES else []
            case.call_and_validate(headers=LOOPBACK, excluded_checks=unsaid)

        try:
            keeps_its_word()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, found.ok().label  # it takes nothing that could be wrong


PATHS = (
    "/static/../app.py",
    "/static/..%2fapp.py",
    "/static/%2e%2e/%2e%2e/app.py",
    "/static/..%5capp.py",
    "/static/....//app.py",
    "/static//etc/passwd",
    "/static/index.html%00.js",
    "/static/%252e%252e%252fapp.py",
    "//etc/passwd",
    "/v1/runs/..",
    "/v1/runs/%2e%2e%2f%2e%2e%2fstore.db",
    "/v1/runs/..%2f..%2fwriter.lock/events",
    "/v1/runs/a%00b",
    "/v1/runs/a%0d%0aSet-Cookie:%20x=1",
    "/v1/runs/%ff%fe",
    "/v1/runs/%zz",
    "/v1/runs/-",
    "/v1/runs/" + "n" * 129,
    "/v1/runs/" + "n" * 60_000,
    "/v1/runs/" + "%2e%2e%2f" * 3000 + "etc%2fpasswd",
    "/v1/versions/latest",
    "/v1/versions/..%2fstore.db",
    "/v1/versions/v-0123456789ab%0a",
    "/v1/versions/v-0123456789ab%2f..%2f..%2fstore.db",
    "/v1/runs/exp-arm-s0/probes/1e3",
    "/v1/runs/exp-arm-s0/probes/99999999999999999999999999",
    "/v1/runs/exp-arm-s0/events?after=-1",
    "/v1/runs/exp-arm-s0/events?after=NaN&limit=100000000000000000000",
)
SECRETS = (b"SQLite format", b"root:", b"build_app", b'"pid"', b"Set-Cookie")


def ask_raw(url: str, target: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and whole answer to a request target that no client library would leave as it is."""
    where = urlsplit(url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.slow
def test_paths_with_tricks_lead_nowhere(tmp_path: Path) -> None:
    with open_store(tmp_path / "affinity") as store:
        version = fill(store)
    before = files_of(tmp_path / "affinity")
    names = {path.name for path in tmp_path.rglob("*")}
    with start_service(tmp_path) as service:
        for path in PATHS:
            for method in ("GET", "PUT", "POST", "DELETE", "x" * 50):
                status, answer = ask_raw(service.url, path, method)
                assert 400 <= status < 500, (method, path, answer[:300])
                assert not any(secret in answer for secret in SECRETS), (method, path)
        for garbage in (b"\0" * 100, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"x: y\r\n" * 20_000, b"\x16\x03\x01"):
            send_garbage(service.url, garbage)
        assert [each.id for each in HttpTransport(service.url).versions()] == [version.id]
        assert service.process.poll() is None
    assert files_of(tmp_path / "affinity") == before
    assert {path.name for path in tmp_path.rglob("*")} == names


def send_garbage(url: str, garbage: bytes) -> None:
    """Send what is no request; whatever happens to this connection is fine."""
    where = urlsplit(url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection, suppress(OSError):
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)
