"""The preview as HTML. Every text comes from a corpus that somebody else wrote, so every text is escaped.

As a second wall the page forbids itself the network and any script but its own (a content security policy).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.audio.load import decode_flac
from data_prep.look.waveform import decibels, level_of, waveform_svg
from pipeline.data.manifest import DatasetManifest, SampleEntry
from pipeline.errors import AudioError
from pipeline.types import SPLITS, Clip, Qa

_FOLDER = Path(__file__).parent
_LONGEST_TEXT = 4000


@dataclass(frozen=True)
class DatasetView:
    """What the page says about one dataset. `lost` counts clips by (split, state); `examples` are their records."""

    manifest: DatasetManifest
    lost: Counter[tuple[str, str]]
    examples: list[dict[str, Any]]


def render_page(title: str, remark: str, views: Collection[DatasetView], clips: Mapping[tuple[str, str], str]) -> str:
    """The whole page; `clips` holds the rendered clips by (dataset, split)."""
    style = (_FOLDER / "preview.css").read_text(encoding="utf-8")
    script = (_FOLDER / "preview.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; media-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = html.escape(title)
    sections = "".join(_section(view, clips) for view in views)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#clips">Skip to the clips</a>\n<header>\n<h1>{shown}</h1>\n'
        f"<p>{html.escape(remark)}</p>\n</header>\n{_FILTER}<main>\n{_contents(views)}"
        f'<div id="clips" tabindex="-1">\n{sections}</div>\n</main>\n<script>{script}</script>\n</body>\n</html>\n'
    )


_FILTER = """<form class="bar" role="search">
<label>Filter <input id="words" type="search" placeholder="dataset, task, words" autocomplete="off"></label>
<label>Split <select id="split"><option value="">all</option></select></label>
<label>Task <select id="task"><option value="">all</option></select></label>
<output id="count"></output> <output id="audio"></output> <a href="#contents">Contents</a>
</form>
"""


def render_clip(clip: Clip, sample: SampleEntry, flac: bytes) -> tuple[str, str]:
    """One clip twice: with its player, and without its audio."""
    search = html.escape(f"{clip.dataset} {clip.split} {clip.domain}", quote=True)
    tasks = html.escape(json.dumps(sorted({qa.task for qa in clip.qa})), quote=True)
    head = (
        f'<article class="clip" data-split="{html.escape(clip.split)}" data-tasks="{tasks}" data-search="{search}">\n'
        f"<h4>{_text(clip.id)}</h4>\n"
    )
    player = (
        f'<audio controls preload="none" data-expected="{sample.duration_s}" aria-label="{html.escape(clip.id)}" '
        f'src="data:audio/flac;base64,{base64.b64encode(flac).decode()}"></audio>\n'
    )
    rest = _sound(clip, flac) + _about(clip) + _questions(clip.qa) + "</article>\n"
    return head + player + rest, head + '<p class="warning">Audio left out: the page is full.</p>\n' + rest


def _sound(clip: Clip, flac: bytes) -> str:
    """The waveform with what it says in words."""
    try:
        audio, rate_hz = decode_flac(flac)
    except AudioError as error:
        return f'<p class="warning">The audio cannot be decoded: {html.escape(error.what)}</p>\n'
    if not len(audio):
        return '<p class="warning">The audio has no samples.</p>\n'
    level = level_of(audio)
    warning = f' <strong class="warning">{html.escape(level.warning)}</strong>' if level.warning else ""
    words = f"{len(audio) / rate_hz:.2f} s, {rate_hz} Hz, peak {decibels(level.peak)}, mean {decibels(level.rms)}"
    return f'{waveform_svg(audio, f"waveform, {words}")}\n<p class="quiet">{words}{warning}</p>\n'


def _about(clip: Clip) -> str:
    """Source keys and meta as a list of terms; nothing when a clip has neither."""
    rows = [("source: " + kind, value) for kind, value in clip.source_keys.items()]
    rows += [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
             for name, value in clip.meta.items()]  # fmt: skip
    terms = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in rows)
    return f"<dl>{terms}</dl>\n" if terms else ""


def _questions(questions: Iterable[Qa]) -> str:
    rows = "".join(
        f'<tr><td class="task">{_text(qa.task)}</td><td>{_text(qa.question)}</td><td>{_answers(qa)}</td></tr>\n'
        for qa in questions
    )
    head = '<tr><th scope="col">task</th><th scope="col">question</th><th scope="col">answers</th></tr>'
    return _scroll("questions", f"<table><thead>{head}</thead>\n<tbody>{rows}</tbody></table>", "tall")


def _answers(qa: Qa) -> str:
    answers = qa.answers or (qa.answer,)
    if len(answers) == 1:
        return _text(answers[0])
    return "<ol>" + "".join(f"<li>{_text(answer)}</li>" for answer in answers) + "</ol>"


def _contents(views: Collection[DatasetView]) -> str:
    """The table of datasets, which is the table of contents too."""
    head = '<th scope="col">dataset</th><th scope="col">domain</th>' + "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in (*(f"{split} clips" for split in SPLITS), "questions", "hours", "not used")
    )
    rows = []
    for view in views:
        manifest, splits = view.manifest, view.manifest.splits
        counts = [f"{splits[split].clips:,}" if split in splits else "-" for split in SPLITS]
        counts.append(f"{sum(entry.questions for entry in splits.values()):,}")
        counts.append(f"{sum(entry.hours for entry in splits.values()):,.2f}")
        counts.append(f"{view.lost.total():,}")
        cells = "".join(f'<td class="number">{count}</td>' for count in counts)
        name = html.escape(manifest.dataset)
        rows.append(
            f'<tr data-dataset="{name}"><th scope="row"><a href="#dataset-{name}">{name}</a></th>'
            f"<td>{manifest.domain}</td>{cells}</tr>\n"
        )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    heading = '<h2 id="contents">Datasets</h2>'
    return f'<section aria-labelledby="contents">\n{heading}\n{_scroll("datasets", table)}</section>\n'


def _section(view: DatasetView, clips: Mapping[tuple[str, str], str]) -> str:
    manifest = view.manifest
    name = html.escape(manifest.dataset)
    states = ", ".join(f"{state} {count:,}" for state, count in manifest.states.items())
    facts = {
        "domain": manifest.domain,
        "licence": manifest.licence,
        "adapter": manifest.adapter,
        "clips by final state": states,
    }
    terms = "".join(f"<div><dt>{term}</dt><dd>{_text(value)}</dd></div>" for term, value in facts.items())
    notes = "".join(f"<li>{_text(note)}</li>" for note in manifest.notes)
    parts = [
        f'<section class="dataset" data-dataset="{name}" aria-labelledby="dataset-{name}">\n'
        f'<h2 id="dataset-{name}">{name}</h2>\n'
    ]
    parts.append(f"<dl>{terms}</dl>\n" + (f"<ul>{notes}</ul>\n" if notes else ""))
    parts.append(_quarantine(view))
    for split, entry in manifest.splits.items():
        lost = ", ".join(f"{state} {n:,}" for (of, state), n in sorted(view.lost.items()) if of == split)
        parts.append(
            f'<section class="split">\n<h3>{name} {html.escape(split)}</h3>\n<p class="quiet">{entry.clips:,} clips, '
            f"{entry.hours:,.3f} hours, {entry.questions:,} questions"
            f"{'; not used: ' + html.escape(lost) if lost else ''}</p>\n"
            f'<div class="clips">\n{clips.get((manifest.dataset, split), "")}</div>\n</section>\n'
        )
    return "".join(parts) + "</section>\n"


def _quarantine(view: DatasetView) -> str:
    """Examples of clips that were not used, folded away."""
    if not view.examples:
        return ""
    names = ("state", "split", "id", "reason")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(str(record.get(name, '')))}</td>" for name in names) + "</tr>\n"
        for record in view.examples
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return (
        f"<details><summary>{view.lost.total():,} clips were not used; examples of each state</summary>\n"
        f"{_scroll('clips not used', table, 'lost')}</details>\n"
    )


def _scroll(label: str, table: str, more_class: str = "") -> str:
    """A box that scrolls on its own and can be reached by keyboard."""
    name = f"scroll {more_class}".strip()
    return f'<div class="{name}" role="region" tabindex="0" aria-label="{label}">{table}</div>\n'


def _text(text: str) -> str:
    """Escaped, and cut when it is so long that nobody reads it here."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"
    return html.escape(text)


def _digest(content: str) -> str:
    """A content security policy's name for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
