"""The store behind an affinity service, over HTTP: `Transport` with bounded retries and errors in plain words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from pydantic import BaseModel, TypeAdapter, ValidationError
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

from pipeline.affinity.records import (
    EventLine,
    Name,
    ProbeRecord,
    ProbeStatus,
    RunRecord,
    RunStatus,
    SketchKey,
    VersionSummary,
)
from pipeline.affinity.service.settings import is_loopback
from pipeline.affinity.service.tokens import client_token
from pipeline.affinity.versions import AffinityVersion, dump_version, parse_version
from pipeline.config.schema import AffinityConfig
from pipeline.errors import (
    AccessError,
    AffinityError,
    ConfigError,
    ConflictError,
    MissingError,
    PayloadError,
    StoreBusyError,
    StoreFullError,
    UnreachableError,
)

T = TypeVar("T")

COMPUTE_TIMEOUT_S = 300.0  # of a request that computes a version; it may wait for another computation before
EVENTS_PER_REQUEST = 1000
LONGEST_PAUSE_S = 10.0  # between two attempts, whatever the service asks for

_ERRORS: dict[str, type[AffinityError]] = {
    kind.__name__: kind
    for kind in (
        AccessError,
        AffinityError,
        ConflictError,
        MissingError,
        PayloadError,
        StoreBusyError,
        StoreFullError,
        UnreachableError,
    )
}
_AGAIN = (429, 502, 503, 504)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SUMMARIES = TypeAdapter(list[VersionSummary])


class HttpTransport:
    """A store behind `gst serve`. Everything it sends is idempotent, so every request may be repeated.

    Attempts are repeated after connection errors and after the statuses 429, 502, 503 and 504, with growing pauses.
    Redirects are not followed: they would take the token elsewhere. To be used by one thread at a time.

    Args:
        url: address of the service, such as http://127.0.0.1:8377.
        token_file: mode 600; holds the token, see `service.tokens.client_token`.
        timeout_s: to connect, and then without a sign from the service.
        retries: attempts after the first one.

    Raises:
        ConfigError: not an http or https address.
        AccessError: the token file cannot be used, or the token would cross a network in the clear.
    """

    def __init__(
        self, url: str, token_file: Path | str | None = None, timeout_s: float = 10.0, retries: int = 3
    ) -> None:
        self.url = url.rstrip("/")
        host = _host_of(url)
        token = None if token_file is None else client_token(Path(token_file))
        if token is not None and not url.startswith("https://") and not is_loopback(host):
            raise AccessError(
                "a token would cross the network in the clear",
                where={"url": self.url},
                hint="use https://, or reach the service through an encrypted tunnel that ends on 127.0.0.1",
            )
        self._timeout_s = timeout_s
        self._session = requests.Session()
        if is_loopback(host):
            self._session.trust_env = False  # no proxy can reach this machine's loopback
            self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE", True)
        self._session.auth = _Bearer(token)
        adapter = HTTPAdapter(max_retries=_retry(retries))
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def __enter__(self) -> HttpTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections it keeps open; it opens new ones when it is used again."""
        self._session.close()

    def declare_run(self, run: RunRecord) -> bool:
        return self._put_json(f"/v1/runs/{_part(run.name)}", run)

    def declare_probe(self, probe: ProbeRecord) -> bool:
        return self._put_json(f"/v1/runs/{_part(probe.run)}/probes/{probe.step}", probe)

    def push(self, key: SketchKey, payload: bytes) -> bool:
        place = f"/v1/runs/{_part(key.run)}/probes/{key.step}/sketches/{_part(key.dataset)}/{_part(key.contributor)}"
        return self._put_bytes(place, payload, params={"spec": key.spec})

    def runs(self) -> list[RunStatus]:
        fields = RunStatus.model_fields
        return self._read(
            self._get("/v1/runs"),
            lambda found: [RunStatus(**{name: run[name] for name in fields}) for run in found.json() if run["stored"]],
        )

    def probe(self, run: str, step: int) -> ProbeStatus:
        found = self._get(f"/v1/runs/{_part(run)}/probes/{int(step)}")
        return self._read(found, lambda found: ProbeStatus.model_validate_json(found.content))

    def group(self, run: str, step: int, options: AffinityConfig) -> AffinityVersion:
        place = f"/v1/runs/{_part(run)}/probes/{int(step)}/versions"
        made = self._send("POST", place, data=_json(options), timeout_s=max(COMPUTE_TIMEOUT_S, self._timeout_s))
        return self.version(self._read(made, lambda made: made.json()["id"]))

    def put_version(self, version: AffinityVersion) -> bool:
        return self._put_bytes(f"/v1/versions/{_part(version.id)}", dump_version(version))

    def versions(self) -> list[VersionSummary]:
        return self._read(self._get("/v1/versions"), lambda found: _SUMMARIES.validate_json(found.content))

    def version(self, version_id: str) -> AffinityVersion:
        found = self._get(f"/v1/versions/{_part(version_id)}/arrays")
        return self._read(found, lambda found: parse_version(found.content))

    def append_events(self, run: str, lines: Sequence[EventLine]) -> int:
        place = f"/v1/runs/{_part(run)}/events"
        position = 0
        for start in range(0, max(1, len(lines)), EVENTS_PER_REQUEST):
            some = [line.model_dump() for line in lines[start : start + EVENTS_PER_REQUEST]]
            done = self._send("POST", place, data=_json(some))
            position = self._read(done, lambda done: int(done.json()["position"]))
        return position

    def _get(self, place: str) -> requests.Response:
        return self._send("GET", place)

    def _put_json(self, place: str, record: BaseModel) -> bool:
        return self._read(self._send("PUT", place, data=_json(record)), _is_new)

    def _put_bytes(self, place: str, payload: bytes, params: dict[str, str] | None = None) -> bool:
        done = self._send("PUT", place, data=payload, params=params, media_type="application/octet-stream")
        return self._read(done, _is_new)

    def _read(self, response: requests.Response, read: Callable[[requests.Response], T]) -> T:
        """What `read` finds in an answer.

        Raises:
            UnreachableError: something else answers there, such as the login page of a network.
        """
        try:
            return read(response)
        except (ValueError, KeyError, TypeError, PayloadError) as error:
            raise self._stranger("something that no affinity service says", response) from error

    def _send(
        self,
        method: str,
        place: str,
        *,
        data: bytes | None = None,
        params: dict[str, str] | None = None,
        media_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> requests.Response:
        """One request with its retries.

        Raises:
            AffinityError: what the service refused, as the same class that the store raised there.
            UnreachableError: no answer, or one that no affinity service gives.
        """
        try:
            response = self._session.request(
                method,
                self.url + place,
                data=data,
                params=params,
                headers={} if data is None else {"Content-Type": media_type},
                timeout=(self._timeout_s, timeout_s or self._timeout_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise UnreachableError(
                "the affinity service does not answer",
                where={"url": self.url},
                got=_reason(error),
                hint="is `gst serve` running there?",
            ) from error
        if not 200 <= response.status_code < 300:
            raise self._refusal(response)
        return response

    def _refusal(self, response: requests.Response) -> AffinityError:
        try:
            body = response.json()
            kind = _ERRORS[body["error"]]
            where = {**body["where"], "url": self.url}
            return kind(body["what"], where=where, got=body["got"], expected=body["expected"], hint=body["hint"])
        except (ValueError, KeyError, TypeError):
            return self._stranger(
                "another address" if 300 <= response.status_code < 400 else "an error that is not its own", response
            )

    def _stranger(self, what: str, response: requests.Response) -> UnreachableError:
        return UnreachableError(
            f"the affinity service answers with {what}",
            where={"url": self.url},
            got=f"{response.status_code} {response.reason}",
            hint="is this the address of `gst serve`? its log may say more",
        )


class _BoundedRetry(Retry):
    """Honours `Retry-After`, but not for longer than `LONGEST_PAUSE_S`."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        wanted_s = super().get_retry_after(response)
        return None if wanted_s is None else min(wanted_s, LONGEST_PAUSE_S)


class _Bearer(requests.auth.AuthBase):
    """Adds the token. Also without one it is set, because requests would look into ~/.netrc otherwise."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _retry(retries: int) -> Retry:
    return _BoundedRetry(
        total=retries,
        redirect=0,
        status_forcelist=_AGAIN,
        allowed_methods=None,
        backoff_factor=0.2,
        backoff_max=LONGEST_PAUSE_S,
        backoff_jitter=0.2,
        raise_on_status=False,
        raise_on_redirect=False,
    )


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        host = None
    if not host:
        raise ConfigError("not the address of an affinity service", got=url, expected="such as http://127.0.0.1:8377")
    return host


def _part(name: str) -> str:
    """A name as one part of an address; what could be read as a path never leaves this process.

    Raises:
        PayloadError: not a name.
    """
    try:
        return quote(_NAME.validate_python(name), safe="")
    except ValidationError as error:
        raise PayloadError(
            "not a name", got=str(name)[:140], expected="1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit first"
        ) from error


def _is_new(response: requests.Response) -> bool:
    return bool(response.json()["new"])


def _json(value: Any) -> bytes:
    """`value` as JSON.

    Raises:
        PayloadError: JSON has no such value, NaN among them; the store says the same.
    """
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    try:
        return json.dumps(plain, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError("JSON cannot hold what was to be sent", got=str(error)) from error


def _reason(error: requests.RequestException) -> str:
    """What went wrong, without the object names that requests puts around it."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None) or inner
    return str(reason).rpartition(">: ")[2] or type(error).__name__
