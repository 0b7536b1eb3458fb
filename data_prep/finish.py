"""From written shards to a complete dataset: quarantine list, wids index, thresholds, and last the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.plan import STATES, Plan
from data_prep.write import finished_side, remove_leftovers
from pipeline.data.manifest import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    DatasetManifest,
    ShardEntry,
    ShardSide,
    SplitEntry,
    manifest_digest,
    read_model,
    write_atomic,
)
from pipeline.errors import CorpusError, ShardError
from pipeline.types import SPLITS

DEFAULT_MAX_MISSING_FRACTION = 0.10
BAD_STATES = ("unreadable", "truncated", "empty", "bad_annotation")


@dataclass(frozen=True)
class Thresholds:
    """Largest shares of a corpus' clips that may be damaged or missing.

    `max_missing_fraction` None means the adapter's own value (some public corpora have always lost clips), or 0.10.
    """

    max_bad_fraction: float = 0.02
    max_missing_fraction: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How one dataset ended. With an `error` the manifest exists only here, not on disk."""

    manifest: DatasetManifest
    error: CorpusError | None


def open_dataset(plan: Plan) -> dict[str, ShardSide]:
    """Make the output folder ready and return the side files of the shards that are already the planned ones, by name.

    A manifest that will not be true any more is removed before anything else, then leftovers of dead processes.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    sides = {task.name: finished_side(task) for task in plan.shards}
    kept = {name: side for name, side in sides.items() if side is not None}
    manifest_path = plan.folder / MANIFEST_NAME
    try:
        is_current = read_model(manifest_path, DatasetManifest).plan_hash == plan.plan_hash
    except ShardError:
        is_current = False
    if not is_current or len(kept) < len(plan.shards):
        manifest_path.unlink(missing_ok=True)
    remove_leftovers(plan.folder, plan.dataset, plan.shards)
    return kept


def finish_dataset(plan: Plan, sides: Sequence[ShardSide], thresholds: Thresholds) -> Outcome:
    """Write all that follows the shards. `sides` belong to `plan.shards`, in that order.

    The manifest is written only when the losses are within `thresholds`; the shards stay in any case.
    """
    records = [*plan.quarantined, *(record for side in sides for record in side.quarantined)]
    lines = [json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in records]
    _write_if_changed(plan.folder / QUARANTINE_NAME, "".join(lines).encode())
    splits = _splits(sides)
    for split in SPLITS:
        name = f"{plan.dataset}-{split}"
        index_path = plan.folder / f"{name}.wids.json"
        entry = splits.get(split)
        if entry is None:
            index_path.unlink(missing_ok=True)
            continue
        index = {
            "wids_version": 1,
            "name": name,
            "shardlist": [{"url": shard.file, "nsamples": shard.n_samples} for shard in entry.shards],
        }
        _write_if_changed(index_path, (json.dumps(index, indent=1, sort_keys=True) + "\n").encode())
    manifest = DatasetManifest(
        dataset=plan.dataset,
        domain=plan.domain,
        adapter=plan.adapter,
        licence=plan.licence,
        plan_hash=plan.plan_hash,
        digest=manifest_digest(splits),
        splits=splits,
        states=_states(sides, records),
        notes=list(plan.notes),
    )
    error = _lost_too_much(plan, manifest.states, thresholds)
    manifest_path = plan.folder / MANIFEST_NAME
    if error is None:
        _write_if_changed(manifest_path, (manifest.model_dump_json(indent=1) + "\n").encode())
    else:
        manifest_path.unlink(missing_ok=True)
    return Outcome(manifest, error)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise what went wrong, after all datasets are done; nothing when nothing did."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CorpusError(
            f"{len(errors)} corpora lost too many clips",
            where={str(error.where["corpus"]): f"{error.what}: {error.got}" for error in errors},
            hint=errors[0].hint,
        )


def _splits(sides: Sequence[ShardSide]) -> dict[str, SplitEntry]:
    """Splits with at least one clip; a shard of which no clip was usable is not listed."""
    splits = {}
    for split in SPLITS:
        shards = [side for side in sides if side.split == split and side.n_samples]
        if shards:
            samples = [sample for side in shards for sample in side.samples]
            splits[split] = SplitEntry(
                clips=len(samples),
                questions=sum(sample.n_qa for sample in samples),
                hours=round(sum(sample.duration_s for sample in samples) / 3600, 6),
                shards=[
                    ShardEntry(file=side.shard, n_samples=side.n_samples, n_bytes=side.n_bytes, sha256=side.sha256)
                    for side in shards
                ],
            )
    return splits


def _states(sides: Sequence[ShardSide], records: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(record["state"] for record in records)
    counts["ok"] = sum(side.n_samples for side in sides)
    return {state: counts[state] for state in STATES if counts[state] or state == "ok"}


def _lost_too_much(plan: Plan, states: dict[str, int], thresholds: Thresholds) -> CorpusError | None:
    n_clips = sum(states.values())
    n_bad = sum(states.get(state, 0) for state in BAD_STATES)
    n_missing = states.get("missing", 0)
    most_missing = thresholds.max_missing_fraction
    if most_missing is None:
        most_missing = DEFAULT_MAX_MISSING_FRACTION if plan.max_missing_fraction is None else plan.max_missing_fraction
    where = {"corpus": plan.dataset, "folder": plan.root, "list": plan.folder / QUARANTINE_NAME}
    if not states["ok"]:
        return CorpusError("no clip of a corpus can be used", where=where, got=states)
    for what, count, most, option in (
        ("damaged", n_bad, thresholds.max_bad_fraction, "--max-bad-fraction"),
        ("missing", n_missing, most_missing, "--max-missing-fraction"),
    ):
        if count > most * n_clips:
            return CorpusError(
                f"too many clips of a corpus are {what}",
                where=where,
                got=f"{count} of {n_clips} clips ({count / n_clips:.1%}); states {states}",
                expected=f"at most {most:.1%}",
                hint=f"repair the corpus, or allow more with {option}; the good shards are kept",
            )
    return None


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)
