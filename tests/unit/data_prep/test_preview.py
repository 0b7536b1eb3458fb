"""The preview page: what it shows, how it chooses, and that no text of a corpus becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prep_corpora import write_corpus
from prepared_shards import RATE_HZ, Members, change_json, change_manifest, prepare_clips, prepare_folder, rewrite

from data_prep.look.preview import write_preview
from data_prep.look.reader import read_audio, read_side
from data_prep.look.waveform import decibels, level_of, waveform_svg
from pipeline.errors import ConfigError, ShardError

EVIL = '</td></article><script>document.documentElement.dataset.hacked = "1"</script><img src=x onerror=alert(1)>'
VOID = {"meta", "input"}


@dataclass
class Page(HTMLParser):
    """The elements of a page as (tag, attributes, text inside); refuses unbalanced markup."""

    elements: list[tuple[str, dict[str, str | None], list[str]]] = field(default_factory=list)
    _open: list[tuple[str, dict[str, str | None], list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element[2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(texts)) for name, attributes, texts in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [text for _, text in self.all("h4")]


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page._open
    return page


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`noises`, with a clip lost, and `evil`, whose texts are markup."""
    corpus, out = write_corpus(tmp_path_factory.mktemp("corpus")), tmp_path_factory.mktemp("made") / "shards"
    (corpus / "audio/000.wav").write_bytes(b"")
    prepare_folder(corpus, out)
    texts: dict[str, Any] = {
        "question": EVIL,
        "answer": EVIL,
        "answers": [EVIL, "b"],
        "task": EVIL,
        "source_keys": {EVIL: EVIL},
    }
    evil = [{"id": f"{number}{EVIL}", "meta": {EVIL: EVIL, "list": [EVIL]}, **texts} for number in range(3)]
    prepare_clips(tmp_path_factory.mktemp("evil"), out, "evil", evil)
    change_manifest(out / "evil", licence=EVIL, notes=[EVIL], adapter=EVIL)
    records = [
        f'{{"state": "missing", "id": "lost<b>{n}", "reason": "no <i>file", "split": "train"}}\n' for n in range(5)
    ]
    (out / "evil/quarantine.jsonl").write_text("".join(records))
    return out


def test_page_shows_clips_with_audio_and_everything_asked_about_them(shards: Path, tmp_path: Path) -> None:
    summary = write_preview(shards, tmp_path / "new/page.html", clips_per_split=3, datasets=["noises"])
    assert (summary.datasets, summary.clips, summary.clips_without_audio, summary.clips_left_out) == (1, 7, 0, 0)
    assert summary.n_bytes == (tmp_path / "new/page.html").stat().st_size
    page = read_page(tmp_path / "new/page.html")
    tar = shards / "noises/noises-val-000000.tar"
    expected = {sample.clip_id: (read_audio(tar, sample), sample.duration_s) for sample in read_side(tar).samples}
    players = {attributes["aria-label"]: attributes for attributes, _ in page.all("audio")}
    for clip_id, (flac, duration_s) in expected.items():
        assert players[clip_id]["src"] == "data:audio/flac;base64," + base64.b64encode(flac).decode()
        assert float(players[clip_id]["data-expected"] or 0) == duration_s
    assert len(page.all("svg")) == len(page.all("audio")) == 7
    (dataset,) = [text for attributes, text in page.all("section") if attributes.get("data-dataset") == "noises"]
    for words in ("not stated", "ok 11, unreadable 1", "7 clips", "What is heard?", "noise", "not used: unreadable 1"):
        assert words in dataset
    lost = page.all("details")[0][1]
    assert "1 clips were not used" in lost and "clip.000" in lost and "0 bytes" in lost


def test_texts_of_a_corpus_stay_texts(shards: Path, tmp_path: Path) -> None:
    write_preview(shards, tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    assert len(page.all("script")) == 1 and not page.all("img") and not page.all("b") and not page.all("i")
    for attributes, _ in page.all("article"):
        assert set(attributes) == {"class", "data-split", "data-tasks", "data-search"}
    (clip,) = [text for text in page.ids() if text.startswith("1")]
    assert clip == "1" + EVIL
    evil = next(text for attributes, text in page.all("article") if "evil" in (attributes["data-search"] or ""))
    # id; key and value of the source and of meta; a list in meta (as JSON); task, question, answers
    assert evil.count("document.documentElement.dataset.hacked") == 9
    assert page.all("details")[0][1].count("lost<b>") == 3, "three examples of a state"


def test_page_forbids_the_network_and_foreign_scripts(shards: Path, tmp_path: Path) -> None:
    write_preview(shards, tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    (policy,) = [attributes["content"] or "" for attributes, _ in page.all("meta") if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; media-src data:;")
    for tag in ("script", "style"):
        ((_, content),) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "url(" not in text and "@import" not in text


def test_choice_depends_on_seed_and_ids_alone(shards: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{name}.html" for name in ("first", "again", "other"))
    write_preview(shards, first, clips_per_split=2)
    write_preview(shards, again, clips_per_split=2)
    assert first.read_bytes() == again.read_bytes()
    write_preview(shards, other, clips_per_split=2, seed=15)
    assert read_page(first).ids() != read_page(other).ids()
    write_preview(shards, other, clips_per_split=3)
    assert set(read_page(first).ids()) < set(read_page(other).ids())


def test_a_full_page_leaves_out_audio_then_clips_and_says_so(shards: Path, tmp_path: Path) -> None:
    whole = write_preview(shards, tmp_path / "page.html")
    n_audio = len(read_page(tmp_path / "page.html").all("audio"))
    summaries = []
    for max_bytes in range(0, whole.n_bytes + 20_000, 10_000):
        summary = write_preview(shards, tmp_path / "page.html", max_bytes=max_bytes)
        summaries.append(summary)
        page = read_page(tmp_path / "page.html")
        assert len(page.all("article")) == summary.clips
        assert len(page.all("audio")) == summary.clips - summary.clips_without_audio
        assert summary.clips + summary.clips_left_out == whole.clips
        said = page.all("header")[0][1]
        assert (f"Left out: {summary.clips_left_out}." in said) == (summary.clips_left_out > 0)
        assert (f"Without audio: {summary.clips_without_audio}." in said) == (summary.clips_without_audio > 0)
        assert summary.n_bytes <= max_bytes or not summary.clips
        shown = {(a["data-search"] or "").split()[0] for a, _ in page.all("article")}
        assert len(shown) == 2 or summary.clips < 3, "every split has a clip before any has two"
    assert summaries[0].clips == 0 and summaries[-1].clips_without_audio == 0 and n_audio == summaries[-1].clips
    assert any(summary.clips_without_audio for summary in summaries)
    assert "4 clips of 2 datasets, 3 without audio" in str(type(whole)(2, 4, 3, 0, 5))


def test_damaged_audio_is_said_not_hidden(shards: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(shards, tmp_path / "shards"))

    def damage(members: Members) -> Members:
        return [(name, b"fLaC" + bytes(99) if name.endswith("flac") else content) for name, content in members]

    rewrite(broken / "noises", damage, "val")
    write_preview(broken, tmp_path / "page.html", datasets=["noises"])
    ((_, main),) = read_page(tmp_path / "page.html").all("main")
    assert main.count("The audio cannot be decoded: not a readable FLAC") == 2
    rewrite(broken / "noises", change_json(lambda clip: clip.update(meta={"note": "x" * 5000})), "test")
    write_preview(broken, tmp_path / "page.html", datasets=["noises"])
    assert "x" * 4000 + "… (5,000 characters)" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_bad_calls_are_typed_errors(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="did you mean evil"):
        write_preview(shards, tmp_path / "page.html", datasets=["evill"])
    with pytest.raises(ShardError, match="cannot be written"):
        write_preview(shards, tmp_path)
    with pytest.raises(ConfigError, match="clips_per_split"):
        write_preview(shards, tmp_path / "page.html", clips_per_split=-1)
    with pytest.raises(ShardError, match="no prepared dataset"):
        write_preview(tmp_path, tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_levels_and_waveform() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * 100 * t).astype(np.float32)
    half = level_of(0.5 * tone)
    assert (decibels(half.peak), decibels(half.rms), half.warning) == ("-6.0 dBFS", "-9.0 dBFS", None)
    clipped = level_of(np.clip(2 * tone, -1, 32767 / 32768).astype(np.float32))
    assert clipped.clipped == pytest.approx(2 / 3 * RATE_HZ, rel=0.01) and "clipped" in (clipped.warning or "")
    touching = np.zeros(10, np.float32)
    touching[[2, 5, 6]] = 1.0
    assert level_of(touching).warning is None, "a peak at full scale is not a flat top"
    assert level_of(0.005 * tone).warning == "very quiet"
    silence = level_of(np.zeros(9, np.float32))
    assert silence.warning == "digital silence" and decibels(silence.peak) == "-∞ dBFS"
    svg = waveform_svg(np.concatenate([np.zeros(8000, np.float32), 0.5 * tone]), "label")
    x, y = np.array(re.findall(r"([\d.]+) ([\d.]+)", svg.split('d="M')[1]), float).T
    assert x.max() < 240 and abs(y[x < 79] - 24).max() < 0.5
    assert y[x > 81].min() == pytest.approx(12, abs=1) and y[x > 81].max() == pytest.approx(36, abs=1)
    assert waveform_svg(np.ones(1, np.float32), "one sample").count("L") == 1
