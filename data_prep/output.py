"""What goes wrong with an output folder, said in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ShardError

_RUN_AGAIN = "free disk space or choose another --out, then run again; whole shards are kept"


@contextmanager
def writing(what: str, path: Path, hint: str = _RUN_AGAIN) -> Iterator[None]:
    """Turn the system's errors of the block into `ShardError`: "<what> cannot be written: No space left on device"."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{what} cannot be written: {error.strerror}",
            where={"file": error.filename or path},
            hint=hint,
        ) from error
