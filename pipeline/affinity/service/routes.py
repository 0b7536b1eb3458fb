"""The HTTP API below /v1. Handlers are thin: they ask the store and say what came of it.

They are plain functions, run in threads: the store blocks, and so do computations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response

from pipeline.affinity.records import (
    NAME_PATTERN,
    EventLine,
    Name,
    ProbeRecord,
    ProbeStatus,
    RunRecord,
    SketchKey,
    Step,
    VersionSummary,
)
from pipeline.affinity.service.json_values import require_shallow
from pipeline.affinity.service.limits import ComputeGate
from pipeline.affinity.service.metrics import Metrics
from pipeline.affinity.service.replies import FiniteJson, unchanged
from pipeline.affinity.service.runs import RunBook
from pipeline.affinity.service.schemas import (
    ErrorBody,
    EventPage,
    GroupRequest,
    Outcome,
    Position,
    RunView,
    Timeline,
)
from pipeline.affinity.service.settings import VERSION
from pipeline.affinity.transport import Transport
from pipeline.affinity.versions import VERSION_ID, dump_version, parse_version
from pipeline.config.schema import AffinityConfig
from pipeline.errors import MissingError, PayloadError

MAX_EVENTS = 5000
OCTETS = "application/octet-stream"
FOREVER = "private, max-age=31536000, immutable"
# A view of a version never changes until the code that makes it does.
UNTIL_UPDATED = "private, max-age=3600"

RunName = Annotated[str, Path(pattern=NAME_PATTERN, description="name of a run")]
StepNumber = Annotated[Step, Path(description="optimizer step")]
VersionId = Annotated[str, Path(pattern=f"^{VERSION_ID.pattern}$", description="v-<12 hex digits>")]
Octets = Annotated[bytes, Body(media_type=OCTETS)]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these error statuses, and of those that any request below /v1 may get."""
    always = (400, 401, 403, 408, 413, 422, 429, 500, 503)
    return {status: {"model": ErrorBody} for status in sorted({*always, *statuses})}


WRITE_ERRORS = errors(404, 409, 507)
BINARY: dict[str, Any] = {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "what `If-None-Match` names is still right"}}


def run_routes(store: Transport, book: RunBook) -> APIRouter:
    """Runs, and the events of their logs."""
    router = APIRouter(prefix="/v1/runs", tags=["runs"])

    @router.put("/{run}", responses={201: {"model": Outcome}, **errors(409, 507)})
    def declare_run(run: RunName, record: RunRecord, response: Response) -> Outcome:
        """Make a run known. Declared again it must be equal."""
        _require_same("run", record.name, run)
        return _made(response, store.declare_run(record))

    @router.get("", responses=errors())
    def list_runs() -> list[RunView]:
        """All runs, pushed and followed."""
        return book.views()

    @router.get("/{run}", responses=errors(404))
    def get_run(run: RunName) -> RunView:
        """One run, pushed or followed."""
        return book.view(run)

    @router.post("/{run}/events", responses=WRITE_ERRORS)
    def append_events(run: RunName, lines: Annotated[list[EventLine], Body(max_length=MAX_EVENTS)]) -> Position:
        """Add events in rising order of position; those that are there are passed over; `[]` asks where they end."""
        for line in lines:
            require_shallow(line.event)
        return Position(position=store.append_events(run, lines))

    @router.get("/{run}/events", response_model=EventPage, responses=errors(404))
    def get_events(
        run: RunName, after: Annotated[Step, Query()] = 0, limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 500
    ) -> Response:
        """Events after a position of the log, as they were logged: what a later resume made void is among them."""
        return FiniteJson(book.events(run, after, limit).model_dump())

    @router.get("/{run}/timeline", response_model=Timeline, responses=errors(404))
    def get_timeline(run: RunName) -> Response:
        """Evaluations and stages that count, after resumes and restarts, ready for drawing."""
        return Response(book.timeline(run).model_dump_json(), media_type="application/json")

    return router


def probe_routes(store: Transport, metrics: Metrics, gate: ComputeGate) -> APIRouter:
    """Probes: declaring them, pushing their sketches, computing versions from them."""
    router = APIRouter(prefix="/v1/runs/{run}/probes/{step}", tags=["probes"])

    @router.put("", responses={201: {"model": Outcome}, **WRITE_ERRORS})
    def declare_probe(run: RunName, step: StepNumber, record: ProbeRecord, response: Response) -> Outcome:
        """Say which sketches will be pushed for a step of a declared run."""
        _require_same("run", record.run, run)
        _require_same("step", record.step, step)
        return _made(response, store.declare_probe(record))

    @router.get("", responses=errors(404))
    def get_probe(run: RunName, step: StepNumber) -> ProbeStatus:
        """A declared probe and what of it is still to come, as `dataset/contributor`."""
        return store.probe(run, step)

    @router.put("/sketches/{dataset}/{contributor}", responses={201: {"model": Outcome}, **WRITE_ERRORS})
    def push(
        run: RunName,
        step: StepNumber,
        dataset: Annotated[Name, Path()],
        contributor: Annotated[Name, Path()],
        spec: Annotated[str, Query(pattern=r"^[0-9a-f]{12}$", description="digest of the kind of sketch")],
        payload: Octets,
        response: Response,
    ) -> Outcome:
        """Store one contributor's sketches of one dataset (safetensors). The same key never gets other bytes."""
        key = SketchKey(run=run, step=step, dataset=dataset, contributor=contributor, spec=spec)
        with metrics.counting_refused_pushes():
            is_new = store.push(key, payload)
        metrics.push(is_new=is_new)
        return _made(response, is_new)

    @router.post("/versions", responses=WRITE_ERRORS)
    def group(run: RunName, step: StepNumber, options: GroupRequest) -> dict[str, Any]:
        """The version that a complete probe gives: computed once, found afterwards. 409 lists what is still to come."""
        with metrics.counting_computations(), gate.turn(on_done=metrics.computed):
            return store.group(run, step, AffinityConfig(**options.model_dump())).document()

    return router


def version_routes(store: Transport) -> APIRouter:
    """Versions; none of them ever changes."""
    router = APIRouter(prefix="/v1/versions", tags=["versions"])
    found = {**NOT_MODIFIED, **errors(404)}

    @router.get("", responses=errors())
    def list_versions() -> list[VersionSummary]:
        """One line about each version, oldest first."""
        return store.versions()

    @router.get("/{version}", response_model=dict[str, Any], responses=found)
    def get_version(version: VersionId, request: Request) -> Response:
        """Everything but the matrices, as the version's JSON file says it."""
        return _lasting(request, version, FOREVER, lambda: store.version(version).document())

    @router.get("/{version}/arrays", response_class=Response, responses={**found, 200: BINARY})
    def get_arrays(version: VersionId, request: Request) -> Response:
        """The whole version as one safetensors file: its matrices, and the JSON document in its metadata."""
        return _lasting(request, f"{version}-arrays", FOREVER, lambda: dump_version(store.version(version)), OCTETS)

    @router.put("/{version}", responses={201: {"model": Outcome}, **errors(409, 507)})
    def put_version(version: VersionId, payload: Octets, response: Response) -> Outcome:
        """Store a version that was computed elsewhere, in the form in which `/arrays` gives it."""
        parsed = parse_version(payload)
        _require_same("version", parsed.id, version)
        return _made(response, store.put_version(parsed))

    @router.get("/{version}/view", response_model=dict[str, Any], responses=found)
    def view(
        version: VersionId,
        request: Request,
        metric: Annotated[Literal["distance", "cosine", "gram"], Query()] = "distance",
        module: Annotated[str, Query(max_length=512, description="parameter group; empty: the whole gradient")] = "",
    ) -> Response:
        """What the page shows of a version, in the order of its dendrogram."""
        from pipeline.affinity.view import version_view  # scipy and scikit-learn take seconds to import

        def make() -> dict[str, Any]:
            found = store.version(version)
            if module and module not in found.modules:
                raise MissingError("the version has no view of such a module", got=module, expected=list(found.modules))
            return version_view(found, metric, module or None)

        return _lasting(request, f"{version}-{metric}-{module.encode().hex()}-{VERSION}", UNTIL_UPDATED, make)

    @router.get("/{version}/compare/{other}", response_model=dict[str, Any], responses=found)
    def compare(version: VersionId, other: VersionId, request: Request) -> Response:
        """How another version differs from this one."""
        from pipeline.affinity.view import compare_versions

        def make() -> dict[str, Any]:
            return compare_versions(store.version(version), store.version(other))

        return _lasting(request, f"{version}-{other}-{VERSION}", UNTIL_UPDATED, make)

    return router


def _require_same(what: str, in_body: object, in_path: object) -> None:
    if in_body != in_path:
        raise PayloadError(f"the {what} in the body is not the one in the address", got=in_body, expected=in_path)


def _made(response: Response, is_new: bool) -> Outcome:
    response.status_code = 201 if is_new else 200
    return Outcome(new=is_new)


def _lasting(
    request: Request, tag: str, cache: str, make: Callable[[], Any], media_type: str = "application/json"
) -> Response:
    """The answer that `tag` names for ever; 304 when the client has it."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": cache}
    known = unchanged(request, headers)
    if known is not None:
        return known
    if media_type == OCTETS:
        return Response(make(), media_type=OCTETS, headers=headers)
    return FiniteJson(make(), headers=headers)
