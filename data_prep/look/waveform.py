"""How loud a clip is, and its shape as a small drawing: silence and clipping show without listening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.audio.load import Audio

_COLUMNS = 240
_HEIGHT = 48
_FULL_SCALE = 32767 / 32768
_FLAT_TOP = 3
_QUIET_PEAK = 0.01


@dataclass(frozen=True)
class Level:
    """Peak and root mean square of a clip, 1 being full scale; `clipped` counts samples inside flat tops."""

    peak: float
    rms: float
    clipped: int

    @property
    def warning(self) -> str | None:
        """What a listener should know before blaming the loudspeakers."""
        if self.peak == 0:
            return "digital silence"
        if self.peak < _QUIET_PEAK:
            return "very quiet"
        return f"clipped: {self.clipped} samples" if self.clipped else None


def level_of(audio: Audio) -> Level:
    """`audio`: [T] in [-1, 1], T > 0. A flat top is three or more neighbours at full scale of the same sign."""
    clipped = 0
    for sign in (1, -1):
        full = np.flatnonzero(sign * audio >= _FULL_SCALE)
        runs = np.split(full, np.flatnonzero(np.diff(full) > 1) + 1)
        clipped += sum(len(run) for run in runs if len(run) >= _FLAT_TOP)
    return Level(float(np.abs(audio).max()), float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))), clipped)


def decibels(value: float) -> str:
    """Relative to full scale."""
    return f"{20 * np.log10(value):.1f} dBFS" if value > 0 else "-∞ dBFS"


def waveform_svg(audio: Audio, label: str) -> str:
    """Smallest and largest sample of each of up to 240 columns as one filled outline; `label` must be escaped."""
    starts = np.unique(np.linspace(0, len(audio), _COLUMNS, endpoint=False, dtype=np.int64))
    middle = _HEIGHT / 2
    # At least a hair's breadth, so that silence is a line and not nothing.
    top = middle - np.maximum(np.maximum.reduceat(audio, starts), 0) * middle - 0.3
    bottom = middle - np.minimum(np.minimum.reduceat(audio, starts), 0) * middle + 0.3
    x = np.arange(len(starts)) * (_COLUMNS / len(starts))
    there = [f"{a:.0f} {b:.1f}" for a, b in zip(x, top, strict=True)]
    back = [f"{a:.0f} {b:.1f}" for a, b in zip(x[::-1], bottom[::-1], strict=True)]
    return (
        f'<svg class="wave" viewBox="0 0 {_COLUMNS} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><path d="M{"L".join(there + back)}Z"/></svg>'
    )
