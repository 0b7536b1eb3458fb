"""Typed errors: what happened, where, what was expected, what to try.

Every error a user can cause is a `GstError`. The command line prints it without a traceback and exits with its
`exit_code`; anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GstError(Exception):
    """Base of all errors caused by input, environment or data.

    Args:
        what: one sentence, what is wrong.
        where: named places: file, key, dataset, shard, rank ... in the order to print.
        got / expected: the two sides of a mismatch, when there is one.
        hint: what to try next.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: dict[str, object] | None = None,
        got: object | None = None,
        expected: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = dict(where or {})
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(what, self.where, got, expected, hint)

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {name}: {value}" for name, value in self.where.items()]
        if self.got is not None:
            lines.append(f"  got: {self.got}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.hint is not None:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (worker pools), where only positional arguments survive by default.
        return (_rebuild, (type(self), self.what, self.where, self.got, self.expected, self.hint))


def _rebuild(
    kind: type[GstError], what: str, where: dict[str, object], got: object, expected: object, hint: str | None
) -> GstError:
    return kind(what, where=where, got=got, expected=expected, hint=hint)


class ConfigError(GstError):
    """A recipe, an override or a DeepSpeed JSON says something that cannot be used."""


class CorpusError(GstError):
    """A raw corpus is absent, has another layout than its adapter knows, or lost too many clips."""


class AudioError(GstError):
    """One audio file cannot be used; `state` is the quarantine state it ends in."""

    def __init__(self, what: str, *, state: str = "unreadable", **fields: object) -> None:
        self.state = state
        super().__init__(what, **fields)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_audio, (self.what, self.state, self.where, self.got, self.expected, self.hint))


def _rebuild_audio(
    what: str, state: str, where: dict[str, object], got: object, expected: object, hint: str | None
) -> AudioError:
    return AudioError(what, state=state, where=where, got=got, expected=expected, hint=hint)


class ShardError(GstError):
    """A prepared shard or manifest is missing, damaged, or not the one that was planned."""


class ModelError(GstError):
    """A model folder cannot be loaded, or lacks the part a recipe names."""


class WorldSizeError(GstError):
    """The number of ranks does not fit the batch or the checkpoint."""


class CheckpointError(GstError):
    """A checkpoint is missing, incomplete, or belongs to another run."""


class SketchError(GstError):
    """Gradient sketches are mis-configured or of different kinds."""


class AffinityError(GstError):
    """Sketches do not suffice to estimate an affinity, or a version is missing."""


class ConflictError(AffinityError):
    """The store holds something else under this key; what is stored never changes."""


class MissingError(AffinityError):
    """The store does not have what was asked for; `got` lists sketches that are still to come, where these lack."""


class PayloadError(AffinityError):
    """Bytes or names sent to the store are not what they must be: damaged, too large, NaN, an unsafe name."""


class StoreBusyError(AffinityError):
    """Another process writes to this store; `where["url"]` is its address when it is a service."""


class StoreFullError(AffinityError):
    """The store's disk is full; what was stored before is intact."""


class AccessError(AffinityError):
    """A token is missing or wrong, or a token file can be read by others."""


class UnreachableError(AffinityError):
    """The affinity service did not answer, also not after the retries, or asks to be spared for a while."""


class TrackingError(GstError):
    """The MLflow tracking store cannot be reached, or refuses what is sent."""


class TrainingError(GstError):
    """Training cannot go on: non-finite loss, a lost rank, too many bad samples."""

    exit_code = 3


class LostRankError(TrainingError):
    """Another rank of the job is gone: killed, crashed, or cut off from this one; `where["rank"]` says which."""


class Stopped(GstError):
    """Nothing is wrong: a signal asked the run to stop, and it left what it needs to go on.

    75 is `EX_TEMPFAIL` of sysexits.h: try again later.
    """

    exit_code = 75


class StoppedTogether(Stopped):
    """The same on every rank of the job, after the same step: nobody is lost."""


class NotBuiltYet(GstError):
    """A documented feature that is not implemented in this version."""

    exit_code = 4

    def __init__(self, feature: str, *, hint: str | None = None) -> None:
        super().__init__(f"not implemented: {feature}", hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (NotBuiltYet, (self.what.removeprefix("not implemented: "),))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint with the known name most like `name`; `otherwise` when nothing is close."""
    match = nearest(name, known)
    return f"did you mean {match!r}?" if match else otherwise
