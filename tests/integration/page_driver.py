"""Hands and eyes for the page: opening it, pointing at cells, reading numbers and pixels, going round by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

WIDE = {"width": 1300, "height": 900}
CONTROLS = "a[href], button, select, input, canvas, summary, [tabindex='0']"
DESCRIBE = """(e) => [e.tagName, e.id, e.value ?? "", e.dataset.link ?? "", e.dataset.name ?? "",
  (e.getAttribute("aria-label") ?? "").slice(0, 60), e.tagName === "SUMMARY" ? e.textContent : "",
  [...document.querySelectorAll(e.tagName)].indexOf(e)].join("|")"""


def is_problem(line: ConsoleMessage) -> bool:
    """Errors and warnings, but not that these tests read pixels."""
    return line.type in ("error", "warning") and "getImageData" not in line.text


@contextmanager
def opened(browser: Browser, url: str, may_fail: bool = False, **context: Any) -> Iterator[Page]:
    """A page in a fresh profile; at the end nothing may have left the service or gone wrong."""
    with browser.new_context(**{"viewport": WIDE, **context}) as profile:
        page = profile.new_page()
        asked, problems = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if is_problem(line) else None)
        page.goto(url)
        yield page
        origin = re.match(r"https?://[^/]+", url)
        assert origin and asked and all(each.startswith(f"{origin[0]}/") for each in asked), asked
        assert may_fail or not problems, problems
        assert page.evaluate("document.documentElement.dataset.hacked") is None


def cells_of(page: Page, canvas: str = "#heatmap canvas") -> tuple[float, float, float, int, int, int]:
    """Where a heatmap has its cells: left, top, size of a cell, first row, first column, rows shown."""
    page.wait_for_function("selector => document.querySelector(selector)?.dataset.cells", arg=canvas)
    left, top, cell, row, column, count = page.eval_on_selector(canvas, "canvas => canvas.dataset.cells").split()
    return float(left), float(top), float(cell), int(row), int(column), int(count)


def point_at(page: Page, row: int, column: int) -> str:
    """Point at a cell of the affinity heatmap; returns what the page says about it."""
    left, top, cell, first_row, first_column, _ = cells_of(page)
    position = {"x": left + (column - first_column + 0.5) * cell, "y": top + (row - first_row + 0.5) * cell}
    page.hover("#heatmap canvas", position=position)
    return page.inner_text("#heatmap .tip")


def shown(text: str) -> list[float]:
    """The numbers in a text of the page."""
    power = {old: new for new, old in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    found = re.findall(r"(−?[\d,]*\.?\d+)(?:\s×\s10(⁻?)([⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    return [
        float(head.replace("−", "-").replace(",", ""))
        * 10.0 ** ((-1 if sign else 1) * int("".join(str(power[c]) for c in digits) or 0))
        for head, sign, digits in found
    ]


def colours_in(page: Page, canvas: str) -> int:
    """How many different colours a canvas has inside its cells."""
    left, top, cell, _, _, count = cells_of(page, canvas)
    return page.eval_on_selector(
        canvas,
        """(canvas, [left, top, side]) => {
          const ratio = canvas.width / canvas.clientWidth;
          const box = [left, top, side, side].map((value) => Math.round(value * ratio));
          const data = new Uint32Array(canvas.getContext("2d").getImageData(...box).data.buffer);
          return new Set(data).size;
        }""",
        [left, top, cell * count],
    )


def pixels(page: Page) -> str:
    cells_of(page)
    page.wait_for_timeout(200)
    return str(page.eval_on_selector("#heatmap canvas", "canvas => canvas.toDataURL()"))


def focusable(page: Page) -> set[str]:
    """All visible controls; of a roving list, as of radio buttons, the one that is in the tab order."""
    script = """controls => [...document.querySelectorAll(controls)].filter((e) => e.checkVisibility()
      && e.tabIndex >= 0 && !e.disabled && (e.type !== "radio" || e.checked)).map(DESCRIBE)"""
    return set(page.evaluate(script.replace("DESCRIBE", DESCRIBE), CONTROLS))


def reached_by_tab(page: Page) -> set[str]:
    """Every control that the tab key comes to, once around; each must show that it has the focus."""
    script = """() => { const e = document.activeElement;
      const seen = [e, e.nextElementSibling].some((each) => each && getComputedStyle(each).outlineStyle !== "none");
      return [(DESCRIBE)(e), seen || e.matches(".point")]; }"""
    page.focus("#skip")
    found: set[str] = set()
    while True:
        name, is_seen = page.evaluate(script.replace("DESCRIBE", DESCRIBE))
        if name in found or name.startswith("BODY"):
            return found
        assert is_seen, f"the focus cannot be seen on {name}"
        found.add(name)
        page.keyboard.press("Tab")


def pixel(page: Page) -> list[int]:
    """Colour in the middle of the second cell of the first row."""
    left, top, cell, *_ = cells_of(page)
    page.wait_for_timeout(100)
    return page.eval_on_selector(
        "#heatmap canvas",
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]",
        [left + cell * 1.2, top + cell * 0.2],
    )
