"""Sketches on their way to an affinity store, as files: what cannot be sent now is still there tomorrow.

    <folder>/0000000007-window-3fa9c1d2.item     one publication: a line of JSON, then the statistics' bytes
    <folder>/refused/<the same>.item, .txt       what the store will never take, and why

Items are written whole or not at all. A number is the order in which one process wrote; the letters at the end are of
the `Outbox` that wrote it, so that several processes of one experiment may write, read and remove items at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.payload import dump_stats, load_stats
from pipeline.affinity.records import ProbeRecord, RunRecord
from pipeline.atomic import is_stale_temporary, write_atomic
from pipeline.errors import AffinityError, PayloadError, StoreFullError

FORMAT = 1
LIMIT_BYTES = 4 * 2**30
REFUSED = "refused"

_SUFFIX = ".item"
_LOG = logging.getLogger("pipeline.affinity")


@dataclass(frozen=True)
class Publication:
    """One probe or window of a run as one contributor publishes it; a store gets it dataset by dataset.

    `probe.datasets` names what is sent of `stats`: all of its datasets, or those that a window saw.
    """

    run: RunRecord
    probe: ProbeRecord
    contributor: str
    stats: GradientStats


class Outbox:
    """The folder of publications that the store does not have yet.

    Args:
        folder: made when the first item is added.
        limit_bytes: beyond it the oldest windows are dropped (refused ones first), counted in `dropped`, and this is
            said once. Probes are never dropped: groups are made from them, while windows come again.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.dropped = 0
        self._limit_bytes = limit_bytes
        self._own = secrets.token_hex(4)
        self._last = 0
        self._lock = threading.Lock()
        for path in folder.glob(".*.tmp"):
            if is_stale_temporary(path):
                path.unlink(missing_ok=True)

    def add(self, publication: Publication) -> str:
        """Write a publication behind all that wait, and return its name; it is on disk when this returns.

        Raises:
            StoreFullError: the disk is full, or the folder cannot be written.
        """
        content = _dump(publication)
        with self._lock, _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            waiting = self.waiting()
            self._last = max(self._last, int(waiting[-1].partition("-")[0]) if waiting else 0) + 1
            name = f"{self._last:010d}-{publication.probe.kind}-{self._own}{_SUFFIX}"
            write_atomic(self.folder / name, content)
            self._keep_limit(name)
        return name

    def waiting(self) -> list[str]:
        """Names of all items, in the order in which they are to be sent."""
        return sorted(path.name for path in self.folder.glob(f"*{_SUFFIX}"))

    def read(self, name: str) -> Publication | None:
        """An item's content; None when another process has sent and removed it.

        Raises:
            PayloadError: the item is damaged.
        """
        path = self.folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _load(content)
        except (ValueError, KeyError, TypeError, AffinityError) as error:
            reason = error.what if isinstance(error, AffinityError) else f"{type(error).__name__}: {error}"
            raise PayloadError(f"a damaged item of the outbox: {reason}", where={"file": path}) from None

    def remove(self, name: str) -> None:
        """Forget an item that the store has."""
        (self.folder / name).unlink(missing_ok=True)

    def refuse(self, name: str, reason: str) -> None:
        """Move an item aside that the store will never take; moved back by hand, it is tried again."""
        aside = self.folder / REFUSED
        aside.mkdir(parents=True, exist_ok=True)
        write_atomic((aside / name).with_suffix(".txt"), f"{reason}\n".encode())
        try:
            (self.folder / name).replace(aside / name)
        except FileNotFoundError:
            (aside / name).with_suffix(".txt").unlink(missing_ok=True)

    def refused(self) -> list[str]:
        """Names of the items that were moved aside."""
        return sorted(path.name for path in (self.folder / REFUSED).glob(f"*{_SUFFIX}"))

    def reason(self, name: str) -> str | None:
        """Why an item was moved aside; None when it was not."""
        path = (self.folder / REFUSED / name).with_suffix(".txt")
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    def _keep_limit(self, newest: str) -> None:
        paths = [*sorted((self.folder / REFUSED).glob(f"*{_SUFFIX}")), *(self.folder / each for each in self.waiting())]
        sizes = {path: size for path in paths if (size := _size_bytes(path)) is not None}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self._limit_bytes:
                return
            if "-window-" not in path.name or path.name == newest:
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".txt").unlink(missing_ok=True)
            total -= size
            self.dropped += 1
            if self.dropped == 1:
                _LOG.warning(
                    "%s holds more than %d MiB of sketches that could not be sent; the oldest windows are dropped "
                    "from now on (probes are kept)",
                    self.folder,
                    self._limit_bytes >> 20,
                )


def _dump(publication: Publication) -> bytes:
    body = dump_stats(publication.stats)
    header = {
        "format": FORMAT,
        "run": publication.run.model_dump(mode="json"),
        "probe": publication.probe.model_dump(mode="json"),
        "contributor": publication.contributor,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + body


def _load(content: bytes) -> Publication:
    line, _, body = content.partition(b"\n")
    header = json.loads(line)
    if header["format"] != FORMAT:
        raise PayloadError(f"format {header['format']} instead of {FORMAT}")
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
        raise PayloadError("its bytes are not those that were written")
    return Publication(
        run=RunRecord.model_validate(header["run"]),
        probe=ProbeRecord.model_validate(header["probe"]),
        contributor=header["contributor"],
        stats=load_stats(body),
    )


def _size_bytes(path: Path) -> int | None:
    """None for a file that another process has just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFullError(
            f"the outbox cannot be written: {error.strerror or error}",
            where={"folder": folder},
            hint="free space on its disk, or make it writable",
        ) from error
