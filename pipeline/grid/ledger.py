"""What is known of a grid's tasks on disk: done, failed, or in somebody's hands. Survives any kill."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.atomic import write_atomic
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Record:
    """A task's last end.

    Attributes:
        key: digest of all that the result depends on; another key means that the result is of something else.
        code: digest of the code that made it.
        returncode: 0 when it is done.
        value: what a computed task found, such as a version's name.
    """

    key: str
    code: str
    seconds: float
    returncode: int = 0
    value: str = ""
    host: str = ""
    finished: float = 0.0


class Ledger:
    """Records and claims below `<grid>/tasks`.

    A claim is an advisory lock on a file, which the system frees when its holder dies, so that nothing stays claimed
    after a crash. Workers on several machines need a file system whose locks hold between them (NFS 4, Lustre with
    `flock`, GPFS).
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / "tasks"
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, task: str) -> Path:
        """Where the task's output goes."""
        return self._file(task, "log")

    def record(self, task: str) -> Record | None:
        """The task's last end, whatever it was; None when it never ended."""
        try:
            return Record(**json.loads(self._file(task, "json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"a task's record cannot be read: {error}", where={"file": self._file(task, "json")}, hint="delete it"
            ) from None

    def write(self, task: str, key: str, code: str, seconds: float, returncode: int = 0, value: str = "") -> None:
        """The task ended."""
        record = Record(key, code, round(seconds, 3), returncode, value, socket.gethostname(), round(time.time(), 3))
        write_atomic(self._file(task, "json"), (json.dumps(asdict(record)) + "\n").encode())

    @contextmanager
    def claim(self, task: str) -> Iterator[int | None]:
        """The open lock file while the task is ours alone; None when another worker has it.

        The file is handed to the task's own process, so that a task whose worker was killed stays claimed until it
        has ended too.

        Raises:
            ConfigError: this file system has no locks.
        """
        handle = os.open(self._file(task, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    yield None
                    return
                raise ConfigError(
                    f"the grid's folder has no working file locks: {error}",
                    where={"folder": self.folder},
                    hint="put --out on a file system with locks, and run one worker at a time",
                ) from None
            yield handle
        finally:
            os.close(handle)

    def is_claimed(self, task: str) -> bool:
        """Whether a worker has it at this moment."""
        with self.claim(task) as handle:
            return handle is None

    def _file(self, task: str, ending: str) -> Path:
        return self.folder / f"{task.replace('/', '__')}.{ending}"
