"""How a recipe's job and its affinity store meet: which store, under which names, through which outbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.affinity.client import AffinityClient
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.http import HttpTransport
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.outbox import Outbox, Publication
from pipeline.affinity.records import ProbeRecord, RunRecord, safe_name
from pipeline.affinity.shipping import EventShipper
from pipeline.affinity.store.lock import lock_holder
from pipeline.affinity.transport import Transport
from pipeline.config import Recipe, recipe_digest
from pipeline.errors import UnreachableError

SEND_S = 60.0  # how long a command waits for its sketches to arrive before it leaves them to the outbox
CLOSE_S = 20.0  # how long a finished training does
EVENTS = "events-rank0.jsonl"


def affinity_folder(recipe: Recipe) -> Path:
    """The experiment's own store, and where its versions are saved whatever store made them."""
    return Path(recipe.out) / "affinity"


def connect(recipe: Recipe) -> Transport:
    """The recipe's store: a service, or the experiment folder's own, through its service when one runs there.

    Raises:
        AccessError: the token file cannot be used, or the folder's service wants a token.
    """
    service = recipe.service

    def http(url: str, retries: int = service.retries) -> Transport:
        token_file = Path(service.token_file) if service.token_file else None
        return HttpTransport(url, token_file, timeout_s=service.timeout_s, retries=retries)

    if service.url is not None:
        return http(service.url)
    folder = affinity_folder(recipe)
    url = lock_holder(folder).get("url")
    if url:
        try:
            http(url, retries=0).runs()
            return http(url)
        except UnreachableError:
            pass  # a service that was killed is still named there; if it lives, the store says that it is busy
    return LocalTransport(folder)


def start_client(recipe: Recipe, shipper: EventShipper | None = None) -> AffinityClient:
    """A client at work; rank 0 only."""
    return AffinityClient(lambda: connect(recipe), Outbox(Path(recipe.out) / "outbox"), shipper)


def project_name(recipe: Recipe) -> str:
    """Names the experiment in a store."""
    return safe_name(recipe.service.project or Path(recipe.out).resolve().name)


def arm_record(recipe: Recipe, datasets: Sequence[str]) -> RunRecord:
    """The run of an arm and a seed; `recipe` has its affinity version pinned."""
    project = project_name(recipe)
    return RunRecord(
        name=safe_name(f"{project}-{recipe.arm}-s{recipe.train.seed}"),
        project=project,
        arm=safe_name(recipe.arm),
        seed=recipe.train.seed,
        datasets=tuple(datasets),
        config_digest=recipe_digest(recipe),
    )


def probe_publication(recipe: Recipe, stats: GradientStats) -> Publication:
    """A probe as this contributor publishes it; all contributors of one source push to one run."""
    project = project_name(recipe)
    run = RunRecord(
        name=safe_name(f"{project}-probe-{stats.source[:8]}"),
        project=project,
        arm="probe",
        seed=recipe.train.seed,
        datasets=tuple(stats.datasets),
        config_digest=stats.source,
    )
    record = ProbeRecord(
        run=run.name,
        step=recipe.probe.warmup_steps,
        datasets=tuple(stats.datasets),
        contributors=recipe.service.contributors,
        spec=stats.spec,
        groups=tuple(stats.groups or ()),
        source=stats.source,
        cost={name: float(value) for name, value in stats.cost.items() if isinstance(value, int | float)},
    )
    return Publication(run, record, recipe.service.contributor, stats)


def window_publication(run: RunRecord, step: int, source: str, stats: GradientStats) -> Publication | None:
    """What one window of training saw; None when it saw nothing."""
    seen = tuple(name for name, count in zip(stats.datasets, stats.count, strict=True) if count)
    if not seen:
        return None
    record = ProbeRecord(
        run=run.name,
        step=step,
        kind="window",
        datasets=seen,
        spec=stats.spec,
        groups=tuple(stats.groups or ()),
        source=source,
    )
    return Publication(run, record, record.contributors[0], stats)


class RunLink:
    """A training run's line to its affinity store, on rank 0: its windows, and the events of its log.

    Args:
        folder: of the run; its log is shipped.
        source: digest of recipe, base model and data.
    """

    def __init__(self, recipe: Recipe, datasets: Sequence[str], folder: Path, source: str) -> None:
        self._recipe = recipe
        self._source = source
        self._record = arm_record(recipe, datasets)
        self._client = start_client(recipe, EventShipper(folder / EVENTS, self._record))

    def publish_window(self, stats: GradientStats, step: int) -> None:
        """Take a closed window's statistics over all ranks; its last step is `step`."""
        publication = window_publication(self._record, step, self._source, stats)
        if publication is not None and self._recipe.service.push_windows:
            self._client.publish(publication)

    def close(self) -> str | None:
        """Wait a bounded time until everything has arrived; a sentence for the user when it has not."""
        if self._client.close(CLOSE_S):
            return None
        out = self._recipe.out
        trouble = self._client.trouble or "it is slow"
        return f"not all has reached the affinity store ({trouble}); it is kept in {out}: `gst sync {out}` sends it"
