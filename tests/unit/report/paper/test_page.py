"""The whole report of a grid: every file, one page that stands alone, and names that try to break out of it."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.report import report as report_command
from pipeline.report.paper.build import GridReport, build_grid_report
from tests.browser import start_browser
from tests.unit.report.example import DATASETS
from tests.unit.report.paper.example import write_agreement, write_arm, write_grid, write_spec
from tests.unit.report.test_build import Checker

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"width": 360, "height": 760}
DESK = {"width": 1280, "height": 900}
EVIL = "<img src=x onerror=\"document.title='hacked'\">"


def evil(name: str) -> str:
    """One dataset's name is an attack, the others are long but harmless."""
    return f"{EVIL}{name}" if name == DATASETS[0] else name


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GridReport:
    out = tmp_path_factory.mktemp("tables")

    def skip(study: str, arm: str, seed: int) -> bool:
        return (study, arm) == ("low", "gst-t2") or (arm, seed) == ("gst-g2", 1)

    write_grid(out, seeds=(0, 1), names=DATASETS, skip=skip, rename=evil)
    return build_grid_report(out, machine="2 cores", commands=["bash run.sh tables --scale quick"])


def test_every_table_in_four_formats_and_nothing_else(report: GridReport):
    names = {path.name for path in (report.folder / "tables").iterdir()}
    assert names == {f"{name}.{kind}" for name in report.tables for kind in ("csv", "tex", "md", "html")}
    assert {"T1", "T2", "T3", "T4", "T5", "T6", "T7", "T1-metrics", "T4-comparisons", "tuning", "runs"} <= set(
        report.tables
    )
    assert {path.name for path in report.folder.iterdir()} == {"report.html", "report.md", "tables", "figures"}


def test_the_page_stands_alone_and_escapes_names(report: GridReport):
    page = (report.folder / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.problems == []
    assert checker.open == []
    for link in checker.links:
        assert link.startswith("data:image/png;base64,") or (link.startswith("#") and link[1:] in checker.ids), link
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "<img src=x" not in (report.folder / "report.md").read_text().replace("\\<", "")
    alone = (report.folder / "tables" / "T1.html").read_text()
    assert "<img" not in alone


def test_the_page_argues_in_order(report: GridReport):
    page = (report.folder / "report.html").read_text()
    order = ["verdict", "baseline", *(f"section-T{n}" for n in range(1, 8)), "caveats", "provenance"]
    found = [page.index(f'<section id="{name}"') for name in order]
    assert found == sorted(found)
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img [^>]{0,400}", page))


def test_two_seeds_claim_nothing_and_missing_runs_reach_the_head(report: GridReport):
    assert "Nothing is established" in report.summary[0]
    whole = "\n".join(report.summary)
    assert "4 run(s) of the grid are missing" in whole
    assert "is not established" in whole
    assert not any(item.established for items in report.contrasts.values() for item in items)
    assert report.summary[0] in report.text


def test_same_runs_same_bytes(tmp_path: Path):
    write_spec(tmp_path / "grid")
    for arm in ("mix_all", "gst-domain"):
        write_arm(tmp_path / "grid" / "full", arm, 0, {"a": 0.5, "b": 0.6})
    write_agreement(tmp_path / "grid" / "full", ["a", "b"])
    for name in ("once", "again"):
        build_grid_report(tmp_path / "grid", tmp_path / name, machine="2 cores")

    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(tmp_path / "again") == digests(tmp_path / "once")


def test_gst_report_knows_a_grid_when_it_sees_one(tmp_path: Path):
    write_spec(tmp_path)
    for seed in (0, 1):
        write_arm(tmp_path / "full", "mix_all", seed, {"a": 0.5}, code_digest=str(seed))
    app = typer.Typer()
    app.command()(report_command)
    plain = CliRunner().invoke(app, [str(tmp_path)])
    assert plain.exit_code == 0, plain.output
    assert "T1. Full data" in plain.output
    assert "another code digest" in (tmp_path / "report" / "report.html").read_text()
    shutil.rmtree(tmp_path / "report")
    loose = CliRunner().invoke(app, [str(tmp_path), "--any-code"])
    assert loose.exit_code == 0, loose.output
    assert "another code digest" not in (tmp_path / "report" / "report.html").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start_browser() as found:
        yield found


def opened(browser: Browser, report: GridReport, size: dict[str, int], scheme: str) -> tuple[Page, list[str]]:
    """The page, and everything that it said on the console or asked of a network."""
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto((report.folder / "report.html").as_uri())
    return page, complaints


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")], ids=["phone", "desk"])
def test_no_sideways_scrolling_no_complaint_no_request(
    browser: Browser, report: GridReport, size: dict[str, int], scheme: str
):
    page, complaints = opened(browser, report, size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.evaluate("[...document.querySelectorAll('section, figure, details')]"
                         ".every(e => e.getBoundingClientRect().right <= innerWidth + 1)")  # fmt: skip
    assert complaints == []
    assert page.title() != "hacked"
    page.context.close()


def test_a_number_leads_to_its_run_by_keyboard(browser: Browser, report: GridReport):
    page, _ = opened(browser, report, PHONE, "light")
    behind = page.locator("#T1 details.runs")
    behind.locator("summary").focus()
    page.keyboard.press("Enter")
    assert behind.evaluate("each => each.open")
    page.keyboard.press("Tab")
    shown = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    row = page.locator(":target")
    assert row.text_content() == shown
    assert row.evaluate(
        "each => { const box = each.getBoundingClientRect(); return box.top >= 0 && box.top < innerHeight }"
    )
    links = page.evaluate("[...document.querySelectorAll('.runs a')].map(a => a.hash.slice(1))")
    assert len(links) > 100
    assert page.evaluate("ids => ids.every(id => document.getElementById(id))", links)
    unlinked = page.evaluate("[...document.querySelectorAll('.runs dd > code')].map(code => code.textContent)")
    assert unlinked == []
    page.context.close()
