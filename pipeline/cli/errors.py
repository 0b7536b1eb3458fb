"""One way for every command to fail: a typed error becomes a message and an exit code, without a traceback."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable

from pipeline.dist import launched_rank, launched_world_size
from pipeline.errors import GstError

CRASH_EXIT_CODE = 70


def run_guarded(command: Callable[[], None]) -> None:
    """Run `command` and exit; under a launcher without exit handlers, so that no rank waits or aborts in one.

    All ranks tend to meet the same user error. Rank 0 reports it; the others wait a moment, in which the launcher
    usually ends them, and speak up only when they were alone with it.
    """
    try:
        command()
    except GstError as error:
        _wait_for_rank_zero()
        print(f"{_prefix()}error: {error}", file=sys.stderr, flush=True)
        _leave(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        _leave(130)
    except SystemExit as leaving:  # how typer ends, also on success
        _leave(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
    except BaseException:
        traceback.print_exc()
        _leave(CRASH_EXIT_CODE)
    _leave(0)


def _wait_for_rank_zero() -> None:
    if launched_rank() != 0:
        time.sleep(3)


def _prefix() -> str:
    return f"[rank {launched_rank()}] " if launched_world_size() > 1 else ""


def _leave(code: int) -> None:
    """End the process; a launched rank skips exit handlers, which may wait for ranks that are inside a collective."""
    if launched_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
