"""What an adapter yields, clip by clip, into the spool, each in the state that its annotation and file size tell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from data_prep.adapters.base import Adapter, Findings, SourceClip
from data_prep.archives.sources import size_bytes
from data_prep.planning import leakage
from data_prep.planning.spool import Row, Spool, clip_line, read_clip_line
from data_prep.planning.task import STATES, as_utf8, relative
from pipeline.errors import CorpusError, did_you_mean
from pipeline.types import SPLITS

_REPORT_EVERY = 1000

OnRead = Callable[[str, int], None]
"""Called now and then with a dataset and how many of its clips have been read."""


def read_corpus(
    spool: Spool,
    adapter: Adapter,
    root: Path,
    *,
    seed: int,
    kinds_apart: Collection[str],
    excluded: leakage.Excluded,
    found: Findings,
    on_read: OnRead | None = None,
) -> None:
    """Every clip of one corpus into the spool, in the state that can be told without decoding.

    The clips get their places in the shuffled order here, by a keyed hash of their ids: a seeded permutation that no
    library upgrade can change.

    Raises:
        CorpusError: the annotations cannot be read, name no clip, or an unknown split.
    """
    salt = f"{seed}/{adapter.name}"
    n_clips = 0
    for clip in _clips(adapter, root, found):
        n_clips += 1
        if on_read is not None and n_clips % _REPORT_EVERY == 0:
            on_read(adapter.name, n_clips)
        audio = relative(clip.audio, root)
        tokens = [*leakage.tokens_of(clip.source_keys, kinds_apart)]
        state, reason = _state(clip, adapter.name, root)
        listed = next((token for token, _ in tokens if token in excluded), None)
        if state == "ok" and listed is not None:
            state, reason = "blacklisted", f"{listed} is in {excluded[listed]}"
        n_bytes = None
        if state == "ok":
            n_bytes = None if clip.audio is None else size_bytes(clip.audio)
            if n_bytes is None:
                state, reason = "missing", clip.reason or "no such file"
        if audio is not None:
            tokens.append((f"file={adapter.name}/{as_utf8(audio)}", True))
        clip_id = as_utf8(clip.id)
        rank = hashlib.sha256(f"{salt}/{clip_id}".encode()).digest()[:16]
        body = clip_line(clip, audio)
        tokens = [(as_utf8(token), leaks) for token, leaks in tokens]
        spool.add(adapter.name, Row(clip_id, rank, clip.split, state, as_utf8(reason), n_bytes or 0, body, tokens))
    if not n_clips:
        raise CorpusError("the annotations of a corpus name no clip", where={"corpus": adapter.name, "folder": root})


def _clips(adapter: Adapter, root: Path, found: Findings) -> Iterator[SourceClip]:
    try:
        yield from adapter.clips(root, found)
    except OSError as error:
        raise CorpusError(
            f"a corpus cannot be read: {error.strerror}",
            where={"corpus": adapter.name, "file": error.filename or root},
        ) from error


def _state(clip: SourceClip, dataset: str, root: Path) -> tuple[str, str]:
    """State and reason of one clip as far as its annotation tells."""
    if clip.state != "ok":
        assert clip.state in STATES, f"{dataset}: state {clip.state!r}"
        return clip.state, clip.reason
    if clip.split not in SPLITS:
        raise CorpusError(
            "unknown split",
            where={"corpus": dataset, "folder": root, "clip": clip.id},
            got=repr(clip.split),
            expected=" ".join(SPLITS),
            hint=did_you_mean(clip.split, SPLITS),
        )
    if not clip.qa or any(not qa.question.strip() or not qa.answer.strip() for qa in clip.qa):
        return "bad_annotation", "a question or answer is missing or blank"
    if len({qa.id for qa in clip.qa}) < len(clip.qa):
        return "bad_annotation", "two questions have the same id"
    texts = [clip.id, *(text for qa in clip.qa for text in (qa.id, qa.question, qa.answer, *qa.answers))]
    if any(as_utf8(text) != text for text in texts):
        return "bad_annotation", "an id, question or answer holds half a character"
    return "ok", ""


def raise_nothing_usable(spool: Spool, adapter: Adapter, root: Path) -> None:
    """Raise the CorpusError of a corpus without a usable clip: why, and which files were looked for."""
    where = {"corpus": adapter.name, "folder": root}
    states = spool.states(adapter.name)
    first = [
        (state, reason, read_clip_line(body, split, root))
        for state, reason, split, body in spool.refused(adapter.name, limit=1000)
    ]
    missing = [(clip, reason) for state, reason, clip in first if state == "missing"]
    if not missing:
        raise CorpusError(
            "no clip of a corpus can be used",
            where=where,
            got=states,
            hint=f"the first reason was: {first[0][2].id}: {first[0][1]}",
        )
    looked_for = [relative(clip.audio, root) or f"{clip.id} ({reason})" for clip, reason in missing[:3]]
    raise CorpusError(
        "no audio at all was found for a corpus",
        where=where,
        got=f"0 of {states['missing']} audio files",
        expected=f"files like {', '.join(looked_for)}",
        hint="give the folder that holds the audio too, or unpack its archives: gst-data unpack",
    )
