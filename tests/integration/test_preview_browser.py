"""The preview page in a real browser: players decode their audio, the filter filters, foreign scripts do not run."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.look.preview import write_preview
from pipeline.data.manifest import DatasetManifest, ShardSide, read_model
from tests.browser import SWITCHES, find_browser
from tests.launching import run_command

EVIL = '<script>document.documentElement.dataset.hacked = "1"</script><img src=x onerror="document.title=1">'
DURATIONS_S = (0.3, 1.0, 2.5, 7.125)


class Elements(HTMLParser):
    """Tags with their attributes, and the text of elements with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def dump(page: Path, tmp_path: Path) -> Elements:
    """The document as it is after its script has run and its players have loaded."""
    switches = ["--headless", *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"]
    command = [find_browser(), *switches, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return Elements(done.stdout)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpora, out = tmp_path_factory.mktemp("corpora"), tmp_path_factory.mktemp("prepared") / "shards"
    (corpora / "audio").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for dataset in ("tones", "voices"):
        for number, duration_s in enumerate(DURATIONS_S * 3):
            name = f"audio/{dataset}{number}.wav"
            soundfile.write(corpora / name, rng.uniform(-0.5, 0.5, round(duration_s * 16_000)), 16_000)
            lines.append({"id": f"{number}{EVIL}", "audio": name, "dataset": dataset, "task": f"task {number % 2}",
                          "split": ("train", "val", "test")[number // 4], "question": f"What? {EVIL}", "answer": EVIL,
                          "domain": "sound"})  # fmt: skip
    (corpora / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_command("gst-data", "prepare", "--root", corpora, "--corpus", "jsonl", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def recorded_durations_s(shards: Path) -> dict[tuple[str, str], float]:
    """(dataset, clip id) -> seconds, of the side files."""
    found = {}
    for path in shards.glob("*/manifest.json"):
        manifest = read_model(path, DatasetManifest)
        for entry in manifest.splits.values():
            for shard in entry.shards:
                side = read_model((path.parent / shard.file).with_suffix(".json"), ShardSide)
                found.update({(manifest.dataset, sample.clip_id): sample.duration_s for sample in side.samples})
    return found


def test_every_player_decodes_its_audio_and_no_foreign_script_runs(shards: Path, tmp_path: Path) -> None:
    summary = write_preview(shards, tmp_path / "page.html")
    document = dump(tmp_path / "page.html", tmp_path)
    (html,) = document.all("html")
    assert html.get("data-players") == "settled" and "data-hacked" not in html
    assert len(document.all("script")) == 1 and not document.all("img")
    shown = {}
    dataset = ""
    for tag, attributes in document.found:
        if tag == "section" and attributes.get("data-dataset"):
            dataset = str(attributes["data-dataset"])
        if tag == "audio":
            assert "data-error" not in attributes
            shown[dataset, str(attributes["aria-label"])] = float(attributes["data-duration"] or "nan")
    assert summary.clips == len(shown) == 24
    assert shown == pytest.approx(recorded_durations_s(shards), abs=0.01)
    assert not [a for a in document.all("article") if "broken" in (a["class"] or "")]


def test_a_player_that_fails_or_lasts_too_short_is_marked(shards: Path, tmp_path: Path) -> None:
    write_preview(shards, tmp_path / "page.html", clips_per_split=1, datasets=["tones"])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = re.sub('data-expected="[^"]*"', 'data-expected="99.0"', text, count=1)
    before, start, after = text.rpartition("data:audio/flac;base64,")
    (tmp_path / "page.html").write_text(before + start + "AAAA" + after, encoding="utf-8")
    document = dump(tmp_path / "page.html", tmp_path)
    assert ["data-error" in player for player in document.all("audio")] == [False, False, True]
    marked = ["broken" in (article["class"] or "") for article in document.all("article")]
    assert marked == [True, False, True]
    assert len([a for a in document.all("p") if a.get("class") == "fault"]) == 2


@pytest.mark.parametrize(("words", "expected"), [("task=task 0", 12), ("split=val", 8), ("words=VOICES what?", 12)])
def test_the_filter_hides_what_does_not_fit(shards: Path, tmp_path: Path, words: str, expected: int) -> None:
    """The page's own script, asked by a line after it (its policy has to be taken out for that)."""
    write_preview(shards, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    name, _, value = words.partition("=")
    ask = f'field("{name}").value = "{value}"; field("{name}").dispatchEvent(new Event("input"));'
    text = text.replace("Content-Security-Policy", "X-Nothing").replace(
        "</script>\n</body>", f"{ask}</script>\n</body>"
    )
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    document = dump(tmp_path / "page.html", tmp_path)
    assert sum("hidden" not in article for article in document.all("article")) == expected
    sections = [a for a in document.all("section") if a.get("data-dataset")]
    rows = [row for row in document.all("tr") if row.get("data-dataset")]
    one_dataset = "VOICES" in words
    assert ["hidden" in a for a in sections] == ["hidden" in row for row in rows] == [one_dataset, False]
