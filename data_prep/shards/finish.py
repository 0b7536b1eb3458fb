"""From written shards to a complete dataset: quarantine list, wids index, thresholds, and last the manifest."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.planning.plan import Plan
from data_prep.planning.plan_files import PlanFolder
from data_prep.planning.task import STATES, ShardDone, ShardTask
from data_prep.shards.write import done_of, finished_side, remove_leftovers
from pipeline.atomic import open_atomic
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
    write_model,
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


@dataclass
class _Totals:
    """What the shards of one dataset hold, counted side file by side file."""

    states: Counter[str] = field(default_factory=Counter)
    shards: dict[str, list[ShardEntry]] = field(default_factory=dict)
    clips: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, side: ShardSide) -> None:
        """A shard of which no clip was usable is not listed."""
        if side.n_samples:
            entry = ShardEntry(file=side.shard, n_samples=side.n_samples, n_bytes=side.n_bytes, sha256=side.sha256)
            self.shards.setdefault(side.split, []).append(entry)
            self.clips[side.split] += side.n_samples
            self.questions[side.split] += sum(sample.n_qa for sample in side.samples)
            self.seconds[side.split] += sum(sample.duration_s for sample in side.samples)

    def splits(self) -> dict[str, SplitEntry]:
        """The manifest's entries, of the splits that have a clip."""
        return {
            split: SplitEntry(
                clips=self.clips[split],
                questions=self.questions[split],
                hours=round(self.seconds[split] / 3600, 6),
                shards=self.shards[split],
            )
            for split in SPLITS
            if split in self.shards
        }


def open_dataset(plan: Plan, *, verify: bool = False) -> dict[str, ShardDone]:
    """Make the output folder ready and return the shards that are already the planned ones, by name.

    A manifest that will not be true any more is removed before anything else, then leftovers of dead processes.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, ShardDone] = {}
    for task in plan.shards:
        side = finished_side(task, verify=verify)
        if side is not None:
            kept[task.name] = done_of(task, side)
        elif verify:
            task.side.unlink(missing_ok=True)
    manifest_path = plan.folder / MANIFEST_NAME
    try:
        is_current = read_model(manifest_path, DatasetManifest).plan_hash == plan.plan_hash
    except ShardError:
        is_current = False
    if not is_current or len(kept) < len(plan.shards):
        manifest_path.unlink(missing_ok=True)
    remove_leftovers(plan.folder, plan.dataset, plan.shards)
    PlanFolder(plan.folder).remove_others(plan.plan_hash)
    return kept


def finish_dataset(plan: Plan, thresholds: Thresholds) -> Outcome:
    """Write all that follows the shards, which are all there: quarantine list, wids indexes, and the manifest.

    The manifest is written only when the losses are within `thresholds`; the shards stay in any case. Whoever finishes
    the same plan writes the same bytes.
    """
    totals = _Totals()
    with open_atomic(plan.folder / QUARANTINE_NAME) as file:
        for record in _records(plan, totals):
            file.write((json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode())
            totals.states[record["state"]] += 1
    splits = totals.splits()
    for split in SPLITS:
        name = f"{plan.dataset}-{split}"
        index_path = plan.folder / f"{name}.wids.json"
        if split not in splits:
            index_path.unlink(missing_ok=True)
            continue
        index = {
            "wids_version": 1,
            "name": name,
            "shardlist": [{"url": shard.file, "nsamples": shard.n_samples} for shard in splits[split].shards],
        }
        write_atomic(index_path, (json.dumps(index, indent=1, sort_keys=True) + "\n").encode())
    manifest = DatasetManifest(
        dataset=plan.dataset,
        domain=plan.record.domain,
        adapter=plan.record.adapter,
        licence=plan.record.licence,
        plan_hash=plan.plan_hash,
        digest=manifest_digest(splits),
        splits=splits,
        states={state: totals.states[state] for state in STATES if totals.states[state] or state == "ok"},
        notes=list(plan.record.notes),
    )
    error = _lost_too_much(plan, manifest.states, thresholds)
    manifest_path = plan.folder / MANIFEST_NAME
    if error is None:
        write_model(manifest_path, manifest)
    else:
        manifest_path.unlink(missing_ok=True)
    return Outcome(manifest, error)


def _records(plan: Plan, totals: _Totals) -> Iterator[dict[str, Any]]:
    """Quarantine records of the plan, then of the shards, which are counted on the way."""
    yield from plan.refused()
    for task in plan.shards:
        side = _side(task)
        totals.add(side)
        totals.states["ok"] += task.n_clips - len(side.quarantined)
        yield from side.quarantined


def _side(task: ShardTask) -> ShardSide:
    side = finished_side(task)
    if side is None:
        raise ShardError(
            "a shard vanished while its dataset was being finished",
            where={"file": task.tar},
            hint="is another `gst-data prepare` with other options writing here? run it again",
        )
    return side


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
