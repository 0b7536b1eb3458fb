"""What an adapter finds in a corpus folder, for people to look at before anything is written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from data_prep.adapters.base import Adapter, Findings, SourceClip
from data_prep.planning.spool import clip_line
from data_prep.planning.task import relative
from pipeline.types import SPLITS

_EXAMPLES = 3
_QUESTION_FIELDS = ("id", "task", "question", "answer", "answers")


def probe(adapter: Adapter, root: Path) -> list[str]:
    """Read all annotations of one corpus and say what was there: files, columns, rules that matched, clips, a record.

    Raises:
        CorpusError: a required file, column or key is absent; it says what was looked for and where.
    """
    found = Findings()
    counts: dict[str, Counter[str]] = {}
    first: SourceClip | None = None
    problems: dict[str, list[str]] = {}
    for clip in adapter.clips(root, found):
        counts.setdefault(clip.split, Counter())[clip.state] += 1
        if clip.state == "ok" and first is None:
            first = clip
        elif clip.state != "ok" and len(problems.setdefault(clip.state, [])) < _EXAMPLES:
            problems[clip.state].append(f"{clip.id}: {clip.reason}")
    options = ", ".join(f"{name}={value}" for name, value in adapter.options.model_dump(mode="json").items())
    lines = [f"{adapter.name} in {root}", f"  licence: {adapter.licence}", f"  options: {options or 'none'}"]
    lines += [f"  {line}" for line in found.lines()]
    for split in sorted(counts, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS)):
        lines.append(f"  {split}: " + ", ".join(f"{state} {n}" for state, n in counts[split].most_common()))
    for state, examples in problems.items():
        lines += [f"  {state}, for example {example}" for example in examples]
    if first is not None:
        record = json.loads(clip_line(first, relative(first.audio, root)))
        record["qa"] = [
            dict(zip(("id", "task", "question", "answer", "answers"), qa, strict=True)) for qa in record["qa"]
        ]
        lines += ["  first record:", *(f"    {line}" for line in json.dumps(record, indent=1).splitlines())]
    return lines
