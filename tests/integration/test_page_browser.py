"""The service's page in a real browser: right numbers, whole by keyboard, live, and safe with foreign text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import requests

from pipeline.affinity.versions import AffinityVersion, dump_version, save_version
from pipeline.affinity.view import compare_versions, version_view
from tests.browser import start_browser
from tests.integration.page_driver import (
    cells_of,
    colours_in,
    focusable,
    opened,
    pixel,
    pixels,
    point_at,
    reached_by_tab,
    shown,
)
from tests.integration.page_scene import LoggedRun, dataset_names, planted_version, trained_run
from tests.launching import run_command
from tests.serving import start_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "<img src=x onerror=\"document.documentElement.dataset.hacked='1'\"><script>document.title='hacked'</script>"
TABS = ("runs", "affinity", "map", "stability", "training", "compare")
PHONE = {"width": 360, "height": 760}


@dataclass
class Scene:
    """A running service and what it serves."""

    url: str
    few: AffinityVersion
    later: AffinityVersion
    many: AffinityVersion
    evil: AffinityVersion
    run: LoggedRun


def evil_version(folder: Path) -> AffinityVersion:
    """A version whose every text is foreign."""
    plain = planted_version(folder / "aside", 14, names=[f"{EVIL}{i}" for i in range(14)])
    evil = replace(plain, grouping=replace(plain.grouping, verdict=EVIL), spec={EVIL: EVIL}, cost={EVIL: 1.0})
    save_version(folder / "affinity", evil)
    return evil


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("experiment")
    evil = evil_version(folder)
    many = planted_version(folder, 200, seed=3)
    few = planted_version(folder, 14, seed=1)
    later = planted_version(folder, 14, seed=2, groups=4)
    run = trained_run(folder, "gst-g3", dataset_names(14), few.groups, 120)
    trained_run(folder, "gst-g5", dataset_names(200), many.groups, 100)
    foreign = LoggedRun(folder, "evil", [f"{EVIL}{i}" for i in range(3)], [[EVIL]], data_digests={"plain": "0"})
    foreign.enter(0, EVIL)
    foreign.evaluate(0)
    with start_service(folder) as service:
        yield Scene(service.url, few, later, many, evil, run)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start_browser() as started:
        yield started


def link(scene: Scene, **parts: str) -> str:
    return f"{scene.url}/#{urlencode(parts)}"


@pytest.mark.parametrize("d", [14, 200])
def test_the_heatmap_is_drawn_and_tells_value_and_interval_under_the_mouse(
    scene: Scene, browser: Browser, d: int
) -> None:
    version = scene.few if d == 14 else scene.many
    view = version_view(version)
    with opened(browser, link(scene, tab="affinity", version=version.id)) as page:
        assert cells_of(page)[5] == d and colours_in(page, "#heatmap canvas") > 20
        for row, column in ((1, 0), (d - 1, 3), (2, d - 2)):
            text = point_at(page, row, column)
            title, value, interval = text.split("\n")
            names = [f"{x['name']} (G{x['group'] + 1})" for x in (view["datasets"][row], view["datasets"][column])]
            assert title == " and ".join(names)
            big, small = max(row, column), min(row, column)
            assert shown(value) == pytest.approx([view["matrix"][big][small]], rel=0.006)
            limits = [view["low"][big][small], view["high"][big][small]]
            assert shown(interval) == pytest.approx([95, *limits], rel=0.006)
            assert page.inner_text("#pair .pair-value strong") in value
        assert "3 groups" in page.inner_text("#verdict") or d == 200


def test_arrow_keys_move_a_cursor_that_screen_readers_hear(scene: Scene, browser: Browser) -> None:
    view = version_view(scene.few, "cosine")
    names = [dataset["name"] for dataset in view["datasets"]]
    with opened(browser, link(scene, tab="affinity", version=scene.few.id, metric="cosine")) as page:
        cells_of(page)
        page.focus("#heatmap canvas")
        second = view["groups"][1]["start"]
        for key, row, column in (
            ("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowDown", 2, 1), ("ArrowLeft", 2, 0), ("End", 2, 13),
            ("Control+Home", 0, 0), ("PageDown", second, 0), ("ArrowUp", second - 1, 0),
        ):  # fmt: skip
            page.keyboard.press(key)
            heard = page.inner_text("#announcer")
            assert heard.startswith(names[row]) and (names[column] in heard) and page.inner_text("#heatmap .tip") != ""
            value = view["matrix"][max(row, column)][min(row, column)]
            if row != column:
                assert f"cosine {'not defined' if value is None else ''}" in heard
                assert value is None or shown(heard.split("cosine ")[1])[0] == pytest.approx(value, rel=0.006)
        page.keyboard.press("Escape")
        assert page.is_hidden("#heatmap .tip")


def test_at_200_datasets_the_heatmap_can_be_enlarged_until_names_can_be_read(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="affinity", version=scene.many.id)) as page:
        left, *_ = cells_of(page)
        page.focus("#heatmap canvas")
        for _ in range(6):
            page.keyboard.press("+")
        enlarged = cells_of(page)
        assert enlarged[5] < 20 and enlarged[2] > 20 and enlarged[0] > left + 40  # names take room on the left
        page.keyboard.press("Control+End")
        followed = cells_of(page)
        assert followed[3] + followed[5] == followed[4] + followed[5] == 200
        page.keyboard.press("0")
        assert cells_of(page)[5] == 200


def test_measure_and_part_of_the_model_are_chosen_and_kept_in_the_address(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="affinity", version=scene.few.id)) as page:
        cells_of(page)
        distance = point_at(page, 3, 1)
        page.check("input[value=cosine]", force=True)
        page.wait_for_function("() => document.getElementById('metric-meaning').textContent.startsWith('Cosine')")
        page.select_option("#module", "lora_a")
        page.wait_for_function("() => location.hash.includes('module=lora_a')")
        page.wait_for_function("() => document.querySelector('#pair').textContent.includes('Point at')")
        text = point_at(page, 3, 1)
        view = version_view(scene.few, "cosine", "lora_a")
        value = view["matrix"][3][1]
        assert view["datasets"][3]["name"] in text and "no interval for a part of the model" in text
        assert (
            "not defined" in text
            if value is None
            else shown(text.split("cosine ")[1])[0] == pytest.approx(value, rel=0.006)
        )
        address = page.url
        assert distance != text
    with opened(browser, address) as page:
        page.wait_for_function("() => document.getElementById('metric-meaning').textContent.startsWith('Cosine')")
        assert page.input_value("#module") == "lora_a" and page.is_checked("input[value=cosine]")


def test_a_section_that_comes_back_shows_what_was_chosen_meanwhile(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="affinity", version=scene.few.id)) as page:
        before = pixels(page)
        page.click("#tab-map")
        page.select_option("#version", scene.later.id)
        page.wait_for_function("id => document.getElementById('about').textContent.includes(id)", arg=scene.later.id)
        page.click("#tab-affinity")
        view = version_view(scene.later)
        assert view["datasets"][5]["name"] in point_at(page, 5, 2) and pixels(page) != before
        page.go_back()
        page.wait_for_selector("#panel-map:not([hidden])")


def test_the_table_has_all_pairs_of_a_dataset(scene: Scene, browser: Browser) -> None:
    view = version_view(scene.many)
    with opened(browser, link(scene, tab="affinity", version=scene.many.id)) as page:
        cells_of(page)
        page.click("#pairs-table summary")
        name = view["datasets"][17]["name"]
        page.select_option("#pairs-of", name)
        rows = page.locator("#pairs tbody tr")
        assert rows.count() == 199
        first = rows.first.inner_text().split("\t")
        nearest = min((i for i in range(200) if i != 17), key=lambda i: view["matrix"][max(i, 17)][min(i, 17)])
        assert first[0] == view["datasets"][nearest]["name"]
        assert shown(first[2]) == pytest.approx([view["matrix"][max(nearest, 17)][min(nearest, 17)]], rel=0.006)


def test_names_on_the_map_do_not_cover_each_other(scene: Scene, browser: Browser) -> None:
    for version, least in ((scene.few, 14), (scene.many, 60)):
        with opened(browser, link(scene, tab="map", version=version.id)) as page:
            page.wait_for_selector("#map .point")
            assert page.locator("#map .point").count() == len(version.datasets)
            boxes = page.eval_on_selector_all(
                "#map .point-name",
                "found => found.map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.top, b.right, b.bottom])",
            )
            assert len(boxes) >= least
            for i, (left, top, right, bottom) in enumerate(boxes):
                for other in boxes[:i]:
                    # A line of text is as high as its letters and some air, which may touch.
                    assert (
                        right <= other[0] + 1 or other[2] <= left + 1 or bottom <= other[1] + 4 or other[3] <= top + 4
                    )
            shapes = page.eval_on_selector_all(
                "#map .point", "found => new Set(found.map((e) => e.getAttribute('d'))).size"
            )
            assert shapes == len(version.groups)
            page.fill("#map-find", version.datasets[3])
            assert version.datasets[3] in page.locator("#map .point-name.found").all_text_contents()


def test_stability_shows_the_numbers_of_the_version(scene: Scene, browser: Browser) -> None:
    view = version_view(scene.many)
    with opened(browser, link(scene, tab="stability", version=scene.many.id)) as page:
        cells_of(page, "#co-assignment canvas")
        assert colours_in(page, "#co-assignment canvas") > 5
        rows = [row.split("\t") for row in page.locator("#by-k tbody tr").all_inner_texts()]
        chosen = next(row for row in view["stability"]["rows"] if row["k"] == view["stability"]["chosen"])
        (line,) = [row for row in rows if "chosen" in row[0]]
        assert shown(line[0]) == [chosen["k"]] and shown(line[1]) == pytest.approx([chosen["stability"]], abs=0.005)
        names = page.locator("#confidence .name").all_text_contents()
        least = min(view["datasets"], key=lambda dataset: dataset["confidence"])
        assert len(names) == 200 and names[0] == least["name"]
        assert f"{view['stability']['gap']:.2f}" in page.inner_text("#gap")


def test_a_comparison_tells_who_moved(scene: Scene, browser: Browser) -> None:
    found = compare_versions(scene.few, scene.later)
    assert found["moved"], "the scene must have a difference to show"
    with opened(browser, link(scene, tab="compare", a=scene.few.id, b=scene.later.id)) as page:
        page.wait_for_selector("#compare[data-shown]")
        tiles = page.inner_text("#compare .tiles")
        assert f"{found['adjusted_rand_index']:.2f}" in tiles and f"{found['rank_correlation']:.2f}" in tiles
        rows = page.locator("[aria-label='Datasets that moved'] tbody tr").all_inner_texts()
        names = {b: f"G{a + 1}" for a, b in enumerate(found["matched"])}
        assert [row.split() for row in rows] == [
            [move["dataset"], f"G{move['from'] + 1}", *names.get(move["to"], "a new group").split()]
            for move in found["moved"]
        ]
        assert page.locator("#compare canvas").count() == 3
        page.click("#compare-swap")
        back = compare_versions(scene.later, scene.few)
        page.wait_for_function(
            "words => document.getElementById('compare').dataset.shown === words",
            arg=f"{scene.later.id} {scene.few.id} {len(back['moved'])}",
        )


def test_the_curves_follow_a_run_that_trains(scene: Scene, browser: Browser) -> None:
    run = "-".join([scene.run.folder.parents[1].name, scene.run.folder.name])
    with opened(browser, link(scene, tab="training", run=run)) as page:
        page.wait_for_selector("#curves .panel")
        assert page.locator("#curves .panel").count() == 14
        panel = page.locator("#curves .panel", has_text="clotho")
        before = panel.locator("path.line:not(.waiting)").get_attribute("d")
        scene.run.evaluate(scene.run.step + 20, {"clotho": 0.123})
        page.wait_for_function(
            "() => [...document.querySelectorAll('.panel .now')].some((e) => e.textContent === '0.123')"
        )
        after = panel.locator("path.line:not(.waiting)").get_attribute("d")
        assert after.count("L") == before.count("L") + 1
        assert f"Step {scene.run.step}" in page.inner_text("#announcer")
        assert str(scene.run.step) in page.inner_text("#run-facts")
        panel.click()
        assert "clotho" in page.inner_text("#curve-name")
        assert page.locator("#curve-table tbody tr").first.inner_text().split("\t")[4] == "0.1230"
        page.keyboard.press("Escape")
        page.fill("#filter", "music")
        assert page.locator("#curves .panel .name").all_text_contents() == ["musicnet", "musicqa"]
        page.fill("#filter", "")
        page.select_option("#sort", "worst")
        losses = [float(text) for text in page.locator("#curves .panel .now").all_text_contents()]
        assert losses == sorted(losses, reverse=True) and len(losses) == 14


def test_nothing_is_asked_while_the_tab_is_hidden(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="training")) as page:
        page.wait_for_selector("#curves .panel")
        page.evaluate(
            """() => { Object.defineProperty(document, "hidden", {configurable: true, get: () => true});
                       document.dispatchEvent(new Event("visibilitychange")); }"""
        )
        page.wait_for_timeout(400)  # what is under way may end
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(5500)
        assert asked == [] and page.inner_text("#connection") == "paused"
        with page.expect_request("**/v1/runs"):
            page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")


def test_every_control_is_reached_by_the_tab_key_and_shows_it(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="runs")) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.focus("#tab-runs")
        page.wait_for_selector("#runs table")
        for tab in TABS[1:]:
            page.keyboard.press("ArrowRight")
            page.wait_for_selector(f"#panel-{tab}:not([hidden])")
        page.keyboard.press("Home")
        for tab in TABS:
            page.wait_for_selector(f"#panel-{tab}:not([hidden])")
            page.wait_for_timeout(700)
            assert reached_by_tab(page) == focusable(page)
            page.focus(f"#tab-{tab}")
            page.keyboard.press("ArrowRight")


@pytest.mark.parametrize("tab", TABS)
def test_a_phone_shows_every_section_without_sideways_scrolling(scene: Scene, browser: Browser, tab: str) -> None:
    for version in (scene.few, scene.many):
        with opened(browser, link(scene, tab=tab, version=version.id), viewport=PHONE, has_touch=True) as page:
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(300)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0 and page.inner_text(f"#panel-{tab} h2")


def test_dark_follows_the_system_and_the_switch(scene: Scene, browser: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    address = link(scene, tab="affinity", version=scene.few.id)
    with opened(browser, address, color_scheme="dark") as page:
        cells_of(page)
        dark, dark_cell = page.evaluate(ground), pixel(page)
        page.select_option("#theme", "light")
        light, light_cell = page.evaluate(ground), pixel(page)
        assert sum(shown(light)) > sum(shown(dark)) + 300 and light_cell != dark_cell
        page.reload()
        cells_of(page)
        assert page.evaluate(ground) == light and page.input_value("#theme") == "light"
    with opened(browser, address) as page:
        cells_of(page)
        assert page.evaluate(ground) == light
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(ground) == dark and pixel(page) == dark_cell


def test_foreign_text_stays_text(scene: Scene, browser: Browser) -> None:
    project = scene.run.folder.parents[1].name
    places = [
        link(scene, tab=tab, version=scene.evil.id, a=scene.few.id, b=scene.evil.id, run=f"{project}-evil-s0")
        for tab in TABS
    ]
    for place in places:
        with opened(browser, place) as page:
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(300)
            if "tab=affinity" in place:
                assert EVIL in page.inner_text("#verdict")
                point_at(page, 1, 0)
                page.click("#pairs-table summary")
                page.wait_for_selector("#pairs tbody tr")
                assert EVIL in page.inner_text("#pairs")
            if "tab=training" in place:
                assert EVIL in page.locator("#curves .name").first.text_content()
            assert page.locator("main img, main script").count() == 0 and "hacked" not in page.title()


def test_a_version_or_run_that_is_not_there_is_said_in_words(scene: Scene, browser: Browser) -> None:
    with opened(browser, link(scene, tab="affinity", version="v-000000000000"), may_fail=True) as page:
        page.wait_for_selector("#version-problem:not([hidden])")
        assert "o such affinity version" in page.inner_text("#version-problem") and page.is_hidden("#heatmap")
        page.click("#version-problem button")
        cells_of(page)
        assert page.is_hidden("#version-problem")
    with opened(browser, link(scene, tab="training", run="nobody"), may_fail=True) as page:
        page.wait_for_selector("#training-problem:not([hidden])")
        assert "o such run" in page.inner_text("#training-problem")


def test_an_empty_service_says_how_to_fill_it_and_shows_what_comes(tmp_path: Path, browser: Browser) -> None:
    with start_service(tmp_path) as service, opened(browser, f"{service.url}/#tab=affinity") as page:
        page.wait_for_selector("#version-problem:not([hidden])")
        assert "gst group" in page.inner_text("#version-problem") and page.is_hidden("#heatmap")
        page.click("#tab-runs")
        page.wait_for_selector("#runs .empty-words")
        page.click("#tab-affinity")
        version = planted_version(tmp_path / "elsewhere", 2)
        version = replace(version, estimate=replace(version.estimate, warnings=()))
        body, address = dump_version(version), f"{service.url}/v1/versions/{version.id}"
        assert requests.put(address, data=body, timeout=10).status_code == 201
        assert cells_of(page)[5] == 2
        assert version.id in page.inner_text("#about") and page.is_hidden("#version-problem")
        assert not {"null", "undefined", "NaN"} & set(page.inner_text("main").split())


def test_a_token_is_asked_for_and_forgotten_with_the_tab(tmp_path: Path, browser: Browser) -> None:
    version = planted_version(tmp_path, 2)
    done = run_command("gst", "serve", "--new-tokens", tmp_path / "tokens")
    assert done.returncode == 0, done.stderr
    tokens = dict(line.split() for line in (tmp_path / "tokens").read_text().splitlines() if line and line[0] != "#")
    with start_service(tmp_path, "--token-file", tmp_path / "tokens") as service:
        assert requests.get(f"{service.url}/v1/versions", timeout=10).status_code == 401
        with opened(browser, f"{service.url}/#tab=affinity", may_fail=True) as page:
            page.wait_for_selector("#token-dialog[open]")
            assert page.evaluate("document.activeElement.id") == "token"
            page.fill("#token", "wrong-token-wrong-token")
            page.keyboard.press("Enter")
            page.wait_for_function("() => document.getElementById('token-reason').textContent.includes('not accepted')")
            page.fill("#token", tokens["read"])
            page.keyboard.press("Enter")
            assert cells_of(page)[5] == 2 and version.id in page.inner_text("#about")
            assert page.evaluate("Object.values(sessionStorage)") == [tokens["read"]]
            assert tokens["read"] not in page.content() + page.url + page.evaluate("JSON.stringify(localStorage)")
            page.reload()
            cells_of(page)
        with opened(browser, f"{service.url}/", may_fail=True) as page:
            page.wait_for_selector("#token-dialog[open]")
            page.keyboard.press("Escape")
            page.wait_for_selector("#runs-problem:not([hidden])")
            assert "token" in page.inner_text("#runs-problem")
            page.wait_for_timeout(3500)  # longer than the page waits before it asks the service again
            assert page.is_hidden("#token-dialog"), "who declines is left alone"
            page.click("#token-again")
            page.fill("#token", tokens["read"])
            page.keyboard.press("Enter")
            page.wait_for_selector("#runs-problem", state="hidden")


def test_a_service_that_stops_is_noticed(tmp_path: Path, browser: Browser) -> None:
    planted_version(tmp_path, 2)
    with start_service(tmp_path) as service, opened(browser, f"{service.url}/#tab=affinity", may_fail=True) as page:
        cells_of(page)
        service.process.terminate()
        page.wait_for_selector("#connection[data-state=lost]")
        assert page.is_visible("#heatmap canvas")  # what was there stays to be read
