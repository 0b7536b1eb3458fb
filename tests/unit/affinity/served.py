"""The service's app over a real store, asked without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.service.app import build_app
from pipeline.affinity.service.settings import ServiceSettings
from pipeline.affinity.service.tokens import Tokens
from pipeline.affinity.store.store import open_store
from tests.unit.affinity.publishing import make_publication

READ, WRITE = "r" * 20, "w" * 20
TOKENS = Tokens(read=(READ,), write=(WRITE,))
RUN, STEP = "exp-arm-s0", 50


@contextmanager
def serve(folder: Path, **settings: Any) -> Iterator[TestClient]:
    """A client of a service over the store in `folder`; errors of ours come back as answers with status 500."""
    with open_store(folder / "affinity") as store:
        app = build_app(store, ServiceSettings(**{"rate": "10000/second", **settings}))
        yield TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def declare(client: TestClient, contributors: tuple[str, ...] = ("main",)) -> str:
    """Declare a run and a probe over HTTP; returns the path of the probe."""
    publication = make_publication(RUN, STEP, kind="probe")
    probe = publication.probe.model_copy(update={"contributors": contributors})
    assert client.put(f"/v1/runs/{RUN}", json=publication.run.model_dump()).status_code == 201
    path = f"/v1/runs/{RUN}/probes/{STEP}"
    assert client.put(path, json=probe.model_dump()).status_code == 201
    return path


def push(client: TestClient, dataset: str, contributor: str = "main", seed: int = 0) -> Any:
    """Push one dataset's sketches over HTTP; returns the answer."""
    publication = make_publication(RUN, STEP, kind="probe", seed=seed)
    path = f"/v1/runs/{RUN}/probes/{STEP}/sketches/{dataset}/{contributor}"
    payload = dump_contribution(publication.stats, dataset)
    headers = {"Content-Type": "application/octet-stream"}
    return client.put(path, params={"spec": publication.probe.spec_digest}, content=payload, headers=headers)


def group(client: TestClient) -> Any:
    """Ask for a version of the probe; returns the answer."""
    return client.post(f"/v1/runs/{RUN}/probes/{STEP}/versions", json={"groups": 2, "bootstrap": 20})


def write_run(experiment: Path, name: str, *, arm: str = "gst", seed: int = 0, **more: Any) -> Path:
    """A run's folder as training leaves it; returns its log, which is empty."""
    folder = experiment / "arms" / name
    folder.mkdir(parents=True)
    record = {"arm": arm, "seed": seed, "status": "running", "started": 1.0, "data_digests": {"a": "0", "b": "1"}}
    (folder / "run.json").write_text(json.dumps({**record, **more}))
    log = folder / "events-rank0.jsonl"
    log.touch()
    return log
