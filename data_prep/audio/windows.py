"""Which parts of a long recording become clips."""

from __future__ import annotations

from pipeline.errors import AudioError

Span = tuple[int, int]

POLICIES = ("first", "center", "split", "keep", "refuse")
NEEDS_LENGTH = ("center", "split")


def choose_spans(
    policy: str, start: int, stop: int | None, *, window: int, max_windows: int, shortest: int
) -> list[Span]:
    """Frames [from, to) of the windows of the stretch [start, stop), in order and without overlap.

    `window` is the longest a window may be, `shortest` the shortest that a last one may be, in frames. `stop` None: the
    end is not known; the policies in NEEDS_LENGTH need it.

    - first, keep, refuse: one window from the start (one frame more for the last two, which shows that it is too long).
    - center: the middle.
    - split: whole windows one after another and a last shorter one of at least half a window; when these would be more
      than `max_windows`, so many whole ones, spread evenly from the start to the end.
    """
    if policy in ("keep", "refuse"):
        window += 1
    if stop is not None and stop - start <= window:
        return [(start, stop)]
    if policy not in NEEDS_LENGTH:
        return [(start, start + window)]
    assert stop is not None
    length = stop - start
    if policy == "center":
        first = start + (length - window) // 2
        return [(first, first + window)]
    n_whole = length // window
    if n_whole >= max_windows:
        gaps = max(max_windows - 1, 1)
        firsts = [start + number * (length - window) // gaps for number in range(max_windows)]
        return [(first, first + window) for first in firsts]
    spans = [(start + number * window, start + (number + 1) * window) for number in range(n_whole)]
    rest = length - n_whole * window
    if 2 * rest >= window and rest >= shortest:
        spans.append((stop - rest, stop))
    return spans


def refuse_long(n_frames: int, limit: int, rate_hz: int) -> None:
    """AudioError `too_long` above `limit` frames."""
    if n_frames > limit:
        raise AudioError("longer than allowed", state="too_long", expected=f"<= {limit / rate_hz:g} s")
