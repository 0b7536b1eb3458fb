"""One way for every command to fail: a typed error becomes a message and an exit code, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from pipeline.dist import launched_rank, launched_world_size
from pipeline.errors import GstError, LostRankError, Stopped, StoppedTogether
from pipeline.lifeline import LIFELINE, PATIENCE_S

CRASH_EXIT_CODE = 70
# What gloo, NCCL and torch's store say when a peer's connection breaks.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "ncclRemoteError",
    "NCCL communicator was aborted",
    "failed to recv, got 0 bytes",
)


def run_guarded(command: Callable[[], None]) -> None:
    """Run `command` and exit; under a launcher without exit handlers, so that no rank waits or aborts in one.

    All ranks tend to meet the same user error. Rank 0 reports it; the others wait a moment, in which the launcher
    usually ends them, and speak up only when they were alone with it.
    """
    try:
        command()
    except SystemExit as leaving:  # how typer ends, also on success
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code:
            LIFELINE.leave_alone()
        _leave(code)
    except BaseException as error:
        cause = lost_rank_error(error) or error
        if isinstance(cause, StoppedTogether):
            LIFELINE.farewell()
        else:
            LIFELINE.leave_alone()
        _leave(_report(cause))
    _leave(0)


def _report(error: BaseException) -> int:
    """Say what happened, on the rank whose turn it is; the exit code."""
    if isinstance(error, LostRankError):
        LIFELINE.say(error)
        return error.exit_code
    if isinstance(error, Stopped):
        if launched_rank() == 0:
            print(error, file=sys.stderr, flush=True)
        return error.exit_code
    if isinstance(error, GstError):
        _wait_for_rank_zero()
        print(f"{_prefix()}error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    traceback.print_exception(error)
    return CRASH_EXIT_CODE


def lost_rank_error(error: BaseException) -> LostRankError | None:
    """What `error` comes from, when it comes from another rank that is gone: a collective fails, or the launcher ends
    the rest of the job."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST_PEER):
        return LIFELINE.error(LIFELINE.lost_rank(wait_s=PATIENCE_S))
    lost = LIFELINE.lost_rank()
    ends_by_it = isinstance(error, Stopped | RuntimeError) and not isinstance(error, StoppedTogether)
    return LIFELINE.error(lost) if lost is not None and ends_by_it else None


def _wait_for_rank_zero() -> None:
    if launched_rank() != 0:
        time.sleep(3)


def _prefix() -> str:
    return f"[rank {launched_rank()}] " if launched_world_size() > 1 else ""


def _leave(code: int) -> None:
    """End the process; a launched rank skips exit handlers, which may wait for ranks that are inside a collective."""
    if code == 0:
        LIFELINE.farewell()
    if launched_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
