"""Pushed payloads as files named by their own sha256: written once, whole, and checked whenever they are read."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from pipeline.affinity.store.failures import plain_errors
from pipeline.atomic import sync_folder
from pipeline.errors import AffinityError

_INCOMING = "incoming"  # where payloads are written before they get their names


class BlobStore:
    """Payloads below `folder`. Names come from digests alone, so nothing that is sent can choose a path.

    Threads may write at once; a second process may not (the store's lock sees to that).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / _INCOMING

    def prepare(self) -> None:
        """Make the folders and remove what a killed writer left half-written. Only for the holder of the lock."""
        with plain_errors(self.folder):
            if not self._incoming.is_dir():
                self._incoming.mkdir(parents=True)
                sync_folder(self.folder.parent)
            for leftover in self._incoming.iterdir():
                leftover.unlink()

    def write(self, payload: bytes) -> str:
        """Store `payload` durably and return its digest. A file that was damaged since is replaced.

        Raises:
            StoreFullError: the disk is full; nothing is left of the payload.
        """
        digest = sha256(payload)
        path = self._path(digest)
        with plain_errors(self.folder):
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self.folder)
            if not (path.is_file() and path.read_bytes() == payload):
                self._write_new(path, payload)
            sync_folder(path.parent)  # also for a file that is there: its writer may have died before it did this
        return digest

    def _write_new(self, path: Path, payload: bytes) -> None:
        temporary = self._incoming / f"{path.stem}.{threading.get_ident()}"
        try:
            with open(temporary, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, digest: str) -> bytes:
        """The payload with this digest.

        Raises:
            AffinityError: it is not there, or was changed.
        """
        path = self._path(digest)
        with plain_errors(self.folder):
            payload = path.read_bytes()
        if sha256(payload) != digest:
            raise AffinityError(
                "stored sketches were changed on disk", where={"file": path}, hint="push the same sketches again"
            )
        return payload

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.safetensors"


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
