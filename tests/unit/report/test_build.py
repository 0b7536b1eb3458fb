from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.report.build import Report, build_report
from tests.unit.report.example import DATASETS, evaluation, example_affinity, write_example, write_run

VOID = {"meta", "img", "link", "br", "input"}


class Checker(HTMLParser):
    """Collects unbalanced tags, duplicate ids, scripts and everything that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.problems.append("a script")
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                if value in self.ids:
                    self.problems.append(f"id twice: {value}")
                self.ids.add(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.links.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"unbalanced: {tag}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = write_example(tmp_path_factory.mktemp("experiment"))
    commands = ["gst train -c <recipe>"]
    return build_report(out, out / "report", affinity=example_affinity(), machine="2 cores", commands=commands)


def test_everything_is_written_and_nothing_temporary_is_left(report: Report):
    assert {path.name for path in report.folder.iterdir()} == {"report.html", "report.md", "tables", "figures"}
    stems = {"affinity", "mean_loss", "loss_by_dataset", "cost_to_target", "mixture", "conflict"}
    assert {p.name for p in (report.folder / "figures").iterdir()} == {
        f"{s}.{e}" for s in stems for e in ("png", "pdf", "csv")
    }
    assert {p.stem for p in (report.folder / "tables").iterdir()} == set(report.tables)


def test_the_page_is_whole_and_needs_no_network(report: Report):
    page = (report.folder / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.problems == []
    assert checker.open == []
    for link in checker.links:
        assert link.startswith("data:image/png;base64,") or (link.startswith("#") and link[1:] in checker.ids)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page))
    assert "@import" not in page
    assert "url(" not in page


def test_every_dataset_and_arm_is_in_all_outputs(report: Report):
    for text in (report.text, (report.folder / "report.html").read_text()):
        assert all(name in text for name in (*DATASETS, "original", "mix_all", "gst-g3", "gst-random-3"))
    assert "gst train -c &lt;recipe&gt;" in (report.folder / "report.html").read_text()


def test_markdown_links_existing_figures(report: Report):
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (report.folder / "report.md").read_text())
    assert len(links) == 6
    assert all((report.folder / link).is_file() for link in links)


def test_names_are_escaped_in_the_whole_page(tmp_path: Path):
    names = tuple(f"<script>{name}</script>$x$" for name in DATASETS)
    out = write_example(tmp_path / "experiment", seeds=(0,), names=names)
    build_report(out, tmp_path / "report", affinity=example_affinity(names))
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page.lower()
    assert "&lt;script&gt;audiocaps" in page
    assert "<script" not in (tmp_path / "report" / "report.md").read_text().replace("\\<", "")
    assert "nothing can be concluded" in page


def test_same_input_same_bytes(report: Report, tmp_path: Path):
    build_report(
        report.folder.parent,
        tmp_path,
        affinity=example_affinity(),
        machine="2 cores",
        commands=["gst train -c <recipe>"],
    )

    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(tmp_path) == digests(report.folder)


def test_the_room_does_not_import_torch():
    code = "import sys, pipeline.report.build; sys.exit(any(m.split('.')[0] == 'torch' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_arm_reaches_the_head_of_the_report(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, {"a": 1.0})], {"a": 1.0})
    built = build_report(tmp_path, tmp_path / "report", arms=["gst-g2"])
    assert "1 run(s) are missing or excluded" in "\n".join(built.summary)
    assert "gst-g2-s0" in built.text


def test_the_untouched_model_alone_makes_a_report(tmp_path: Path):
    write_run(tmp_path, "original", 0, [], {"a": 1.0})
    built = build_report(tmp_path, tmp_path / "report")
    assert "Nothing was trained" in built.summary[0]
    assert "mix_all-s0" in built.text
    assert (tmp_path / "report" / "report.html").exists()
