"""What the service answers: forms, statuses, headers, metrics."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from pipeline.affinity.service.headers import SECURITY_HEADERS
from pipeline.affinity.service.json_values import MAX_DEPTH, finite
from pipeline.affinity.service.replies import error_response
from pipeline.affinity.versions import parse_version
from pipeline.errors import (
    AccessError,
    AffinityError,
    ConflictError,
    GstError,
    MissingError,
    PayloadError,
    StoreBusyError,
    StoreFullError,
)
from tests.unit.affinity.served import RUN, STEP, declare, group, push, serve

ROOT = Path(__file__).resolve().parents[3]
ERROR_KEYS = {"error", "what", "where", "got", "expected", "hint"}


def numbers(client: TestClient) -> dict[tuple[str, ...], float]:
    """Every metric by its name and the values of its labels, in the order of the labels' names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (each.name, *(value for _, value in sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PayloadError("x"), 422),
        (ConflictError("x"), 409),
        (MissingError("x", got="a"), 404),
        (MissingError("x", got=["a/main"]), 409),
        (StoreFullError("x"), 507),
        (StoreBusyError("x"), 503),
        (AccessError("x"), 403),
        (AffinityError("too few micro-batches"), 422),
        (GstError("x"), 500),
    ],
)
def test_every_error_has_its_status(error: GstError, status: int) -> None:
    error.where = {"folder": Path("/x"), "step": 3}
    error.expected = {"loss": float("nan")}
    answer = error_response(error)
    assert answer.status_code == status
    body = json.loads(bytes(answer.body))
    assert set(body) == ERROR_KEYS and body["error"] == type(error).__name__
    assert body["where"] == {"folder": "/x", "step": 3} and body["expected"] == {"loss": None}
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_damaged_database_is_not_the_clients_fault() -> None:
    error = AffinityError("the store's database is damaged")
    error.__cause__ = sqlite3.DatabaseError()
    assert error_response(error).status_code == 500


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("DELETE", "/v1/runs", None, 405),
        ("GET", "/v1/runs/absent", None, 404),
        ("GET", "/v1/runs/a%2Fb", None, 404),
        ("GET", "/v1/runs/.hidden", None, 422),
        ("PUT", f"/v1/runs/{RUN}", b"{", 422),
        ("PUT", f"/v1/runs/{RUN}", b"{}", 422),
        ("PUT", f"/v1/runs/{RUN}", b"[" * 100_000, 400),
        ("PUT", f"/v1/runs/{RUN}", b"\xff\xfe", 422),
        ("GET", "/v1/versions/latest", None, 422),
        ("GET", "/v1/versions/v-000000000000", None, 404),
        ("GET", "/static/routes.py", None, 404),
    ],
)
def test_all_refusals_have_one_form(tmp_path: Path, method: str, path: str, body: bytes | None, status: int) -> None:
    with serve(tmp_path) as client:
        answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        assert set(answer.json()) == ERROR_KEYS and answer.json()["what"]


def test_what_is_wrong_comes_back_shortened(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        record = {"name": RUN, "project": "p", "arm": "a", "datasets": ["x" * 5000 + "/"] * 500}
        answer = client.put(f"/v1/runs/{RUN}", json=record)
        assert answer.status_code == 422 and "datasets" in answer.json()["got"] and len(answer.text) < 10_000


def test_a_failure_of_the_service_says_nothing_of_its_inside(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        app = client.app
        assert isinstance(app, FastAPI)

        @app.get("/v1/broken")
        def broken() -> None:
            raise RuntimeError("secret")

        answer = client.get("/v1/broken")
        assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"] == "GstError"
        assert answer.headers["Content-Security-Policy"] == SECURITY_HEADERS["Content-Security-Policy"]
        assert numbers(client)["gst_requests_total", "GET", "/v1/broken", "500"] == 1


def test_a_run_from_declaration_to_version(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        path = declare(client)
        assert [push(client, each).status_code for each in ("a", "b")] == [201, 201]
        early = group(client)
        assert early.status_code == 409
        assert early.json()["error"] == "MissingError" and early.json()["got"] == ["c/main"]
        assert push(client, "c").json() == {"new": True}
        again = push(client, "c")
        assert again.status_code == 200 and again.json() == {"new": False}
        assert push(client, "c", seed=1).status_code == 409
        assert client.get(path).json()["missing"] == []
        made = group(client)
        assert made.status_code == 200 and made.json() == group(client).json()
        version = made.json()["id"]
        assert client.get(f"/v1/versions/{version}").json() == made.json()
        whole = client.get(f"/v1/versions/{version}/arrays")
        assert whole.headers["Content-Type"] == "application/octet-stream"
        assert parse_version(whole.content).id == version
        (summary,) = client.get("/v1/versions").json()
        assert (summary["id"], summary["run"], summary["step"]) == (version, RUN, STEP)
        (run,) = client.get("/v1/runs").json()
        assert (
            run["stored"]
            and not run["followed"]
            and run["probes"] == [STEP]
            and client.get(f"/v1/runs/{RUN}").json() == run
        )

    with serve(tmp_path / "other") as client:
        put = f"/v1/versions/{version}"
        octets = {"Content-Type": "application/octet-stream"}
        assert client.put(put, content=whole.content[:-1], headers=octets).status_code == 422
        assert client.put("/v1/versions/v-000000000000", content=whole.content, headers=octets).status_code == 422
        assert client.put(put, content=whole.content, headers=octets).status_code == 201
        assert client.put(put, content=whole.content, headers=octets).status_code == 200
        assert client.get(put).json() == made.json()


def test_addresses_and_bodies_must_agree(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        declare(client)
        record = {"name": "other", "project": "p", "arm": "a", "datasets": ["x"]}
        answer = client.put(f"/v1/runs/{RUN}", json=record)
        assert answer.status_code == 422 and (answer.json()["got"], answer.json()["expected"]) == ("other", RUN)


def test_what_one_request_may_cost_is_bounded(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        declare(client)
        for each in "abc":
            push(client, each)
        path = f"/v1/runs/{RUN}/probes/{STEP}/versions"
        for options in ({"bootstrap": 10**9}, {"seed": -1}, {"seed": 2**70}, {"groups": 0}, {"more": 1}):
            assert client.post(path, json=options).status_code == 422, options
        nested: Any = {}
        for _ in range(MAX_DEPTH):
            nested = {"deeper": nested}
        lines = [{"position": 1, "event": nested}]
        answer = client.post(f"/v1/runs/{RUN}/events", json=lines)
        assert answer.status_code == 422 and "nested" in answer.json()["what"]
        assert client.post(f"/v1/runs/{RUN}/events", json=[{"position": 1, "event": {}}] * 5001).status_code == 422
        nan = client.post(
            f"/v1/runs/{RUN}/events",
            content=b'[{"position": 1, "event": {"loss": NaN}}]',
            headers={"Content-Type": "application/json"},
        )
        assert nan.status_code == 422


def test_versions_never_change_so_browsers_keep_them(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        declare(client)
        for each in "abc":
            push(client, each)
        version = group(client).json()["id"]
        tags = set()
        for path in ("", "/arrays", "/view?metric=cosine", "/view", f"/compare/{version}"):
            first = client.get(f"/v1/versions/{version}{path}")
            assert first.status_code == 200 and "max-age" in first.headers["Cache-Control"]
            tag = first.headers["ETag"]
            tags.add(tag)
            for known in (tag, f"W/{tag}", f'"other", {tag}'):
                again = client.get(f"/v1/versions/{version}{path}", headers={"If-None-Match": known})
                assert again.status_code == 304 and not again.content
            other = client.get(f"/v1/versions/{version}{path}", headers={"If-None-Match": '"other"'})
            assert other.content == first.content
        assert len(tags) == 5
        assert client.get(f"/v1/versions/{version}/view?module=absent").status_code == 404
        assert client.get("/v1/versions").headers["Cache-Control"] == "no-store"


def test_every_answer_keeps_browsers_safe(tmp_path: Path) -> None:
    with serve(tmp_path, rate="4/minute") as client:
        for path in ("/", "/static/index.html", "/v1/runs", "/nothing", "/v1/runs"):
            headers = client.get(path).headers
            for name, value in SECURITY_HEADERS.items():
                assert headers[name] == value, path
        assert "default-src 'self'" in SECURITY_HEADERS["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in SECURITY_HEADERS["Content-Security-Policy"]


def test_the_pages_files_come_from_a_list(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        page = client.get("/")
        assert page.headers["Content-Type"].startswith("text/html") and "<html" in page.text
        assert client.get("/static/index.html").content == page.content
        again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
        assert again.status_code == 304
        for name in ("..%2fapp.py", "app.py", "%2e%2e%2fapp.py", "index.html%00", "." * 5000):
            assert client.get(f"/static/{name}").status_code == 404, name


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    with serve(tmp_path, max_body_bytes=20_000) as client:
        declare(client)
        for dataset, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0), ("c", 0), ("z" * 200, 0)):
            try:
                push(client, dataset, seed=seed)
            except ValueError:  # there is no such dataset to make sketches of
                client.get(f"/v1/runs/{dataset}")
        group(client)
        client.get("/v1/runs/absent")
        client.request("BREW", "/v1/runs")
        found = numbers(client)
        assert [found["gst_pushes_total", each] for each in ("new", "repeated", "refused")] == [3, 1, 1]
        assert found["gst_computations_total", "done"] == 1 and found["gst_computation_seconds_total",] > 0
        assert [found["gst_store_items", each] for each in ("runs", "probes", "versions")] == [1, 1, 1]
        route = "/v1/runs/{run}/probes/{step}/sketches/{dataset}/{contributor}"
        assert found["gst_requests_total", "PUT", route, "201"] == 3
        assert found["gst_requests_total", "GET", "/v1/runs/{run}", "404"] == 1
        assert found["gst_request_seconds_count", "PUT", route] == 5
        labels = {name for name in found if name[0] == "gst_requests_total"}
        assert not any("zzz" in part or part == "BREW" for name in labels for part in name)
        assert client.get("/healthz").json()["status"] == "ok"


def test_json_has_no_nan() -> None:
    assert finite({"a": [1.5, float("nan"), {"b": float("-inf")}], 2: (True, None, "x")}) == {
        "a": [1.5, None, {"b": None}],
        "2": [True, None, "x"],
    }


def test_the_description_is_whole(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        described = client.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            if path.startswith("/v1/"):
                assert statuses >= {"400", "401", "403", "413", "422", "429", "503"}, (method, path)
                assert operation["security"], path
            if method == "put":
                assert statuses >= {"200", "201", "409", "507"}, path
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (method, path, status)


@pytest.mark.parametrize("module", ["pipeline.affinity.http", "pipeline.cli.serve"])
def test_jobs_do_not_pay_for_the_service(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(each in sys.modules for each in ('fastapi', 'uvicorn', 'starlette')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
