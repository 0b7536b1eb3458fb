"""Tables about corpora: how a preparation ended, and what prepared shards hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from data_prep.finish import Outcome
from pipeline.data.manifest import ShardEntry, ShardSide, find_manifests, read_model
from pipeline.errors import ShardError
from pipeline.types import SPLITS, Clip

_SHORT_WORDS = 3


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One row a dataset: clips by split, questions, hours, clips by final state."""
    table = Table("dataset", "domain", "train/val/test clips", "questions", "hours", "states", "result")
    for outcome in outcomes:
        manifest = outcome.manifest
        splits = manifest.splits.values()
        clips = [str(manifest.splits[name].clips) if name in manifest.splits else "-" for name in SPLITS]
        table.add_row(
            manifest.dataset,
            manifest.domain,
            " / ".join(clips),
            str(sum(split.questions for split in splits)),
            f"{sum(split.hours for split in splits):.3f}",
            " ".join(f"{state} {count}" for state, count in manifest.states.items()),
            "complete" if outcome.error is None else "FAILED",
        )
    return table


def info_table(shards: Path) -> Table:
    """One row a dataset and split: clips, hours, questions, kinds of answers, licence.

    Raises:
        ShardError: no dataset, or a file of one is missing or damaged.
    """
    table = Table("dataset", "domain", "split", "clips", "hours", "questions", "answers", "licence")
    for manifest in find_manifests(shards).values():
        for split, entry in manifest.splits.items():
            kinds: Counter[str] = Counter()
            for shard in entry.shards:
                kinds.update(_answer_kinds(shards / manifest.dataset, shard))
            table.add_row(
                manifest.dataset,
                manifest.domain,
                split,
                str(entry.clips),
                f"{entry.hours:.3f}",
                str(entry.questions),
                ", ".join(f"{kind} {count / entry.questions:.0%}" for kind, count in kinds.most_common()),
                manifest.licence,
            )
    return table


def _answer_kinds(folder: Path, shard: ShardEntry) -> Counter[str]:
    """Answers of one shard by kind: yes/no, short (a label, a number), text. Read by offset, without the audio."""
    kinds: Counter[str] = Counter()
    side = read_model((folder / shard.file).with_suffix(".json"), ShardSide)
    with open(folder / shard.file, "rb") as file:
        for sample in side.samples:
            file.seek(sample.json_offset)
            try:
                clip = Clip.from_json(json.loads(file.read(sample.json_size)))
            except (ValueError, KeyError, TypeError):
                raise ShardError(
                    "a sample is not where its side file says",
                    where={"file": folder / shard.file, "key": sample.key},
                    hint="run `gst-data lint`",
                ) from None
            kinds.update(_answer_kind(qa.answer) for qa in clip.qa)
    return kinds


def _answer_kind(answer: str) -> str:
    if answer.strip(" .!").lower() in ("yes", "no"):
        return "yes/no"
    return "short" if len(answer.split()) <= _SHORT_WORDS else "text"
