"""The papers' tables from a small grid whose cells are computed by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.config.grid import GridSpec, load_grid
from pipeline.errors import ConfigError
from pipeline.report.page import table_page
from pipeline.report.paper.accuracy import accuracy_tables
from pipeline.report.paper.agreement import agreement_tables, read_agreement
from pipeline.report.paper.contrasts import ACCURACY, against, ask, contrast_table
from pipeline.report.paper.cost import cost_tables
from pipeline.report.paper.grid import GridResults, read_grid
from pipeline.report.paper.grouping import grouping_questions, grouping_tables, grouping_verdict
from pipeline.report.paper.order import order_table
from pipeline.report.paper.published import LABEL
from pipeline.report.paper.sources import problems, run_sources
from pipeline.report.paper.tuning import read_search, tuning_table
from pipeline.report.render import to_csv, to_latex, to_markdown
from pipeline.report.table import Cell, Table
from pipeline.report.trace import run_anchor, traces
from tests.unit.report.example import write_probe
from tests.unit.report.paper.example import write_agreement, write_arm, write_spec

PARTITIONS = tuple(f"gst-random-3-p{number}" for number in range(5))


def cells(table: Table, name: str) -> dict[str, Cell]:
    found = next(row for row in table.rows if row[0].text == name)
    return dict(zip(table.columns, found, strict=True))


def results(out: Path, **more: bool) -> GridResults:
    return read_grid(out, load_grid(out), **more)


def small(out: Path) -> GridResults:
    """Two datasets of 20 and 30 test examples; Mix-all and GST-G3 on two seeds, GST-T2 on one, no other arm."""
    write_spec(out)
    study = out / "full"
    write_probe(study, samples=50, seconds=5.0, tokens=100)
    for seed, shift in ((0, 0.0), (1, 0.1)):
        curve = {0: 3.0, 20: 1.0, 40: 1.0}
        write_arm(study, "mix_all", seed, {"a": 0.5 + shift, "b": 0.4}, losses=curve)
        curve = {0: 3.0, 10: 1.0, 40: 0.9}
        write_arm(study, "gst-g3", seed, {"a": 0.6 + shift, "b": 0.5 + shift}, losses=curve, uses_affinity=True)
    write_arm(study, "gst-t2", 0, {"a": 0.8, "b": 0.5})
    write_arm(study, "original", 0, {"a": 0.1, "b": 0.2}, metrics={"a": {"wer": 1.25}, "b": {"cider_d": 0.5}})
    return results(out)


def test_accuracy_cells_by_hand(tmp_path: Path):
    table = accuracy_tables(small(tmp_path), "T1")[0]
    baseline = cells(table, "a")["Mix-all (tuned)"]
    assert baseline.text == "55.0 ± 7.1"
    assert (baseline.n, baseline.runs) == (2, ("full/mix_all-s0", "full/mix_all-s1"))
    # (0.5 * 20 + 0.4 * 30) / 50 = 0.44 and 0.48; macro 0.45 and 0.5.
    assert cells(table, "weighted token accuracy")["Mix-all (tuned)"].text == "46.0 ± 2.8"
    assert cells(table, "macro token accuracy")["Mix-all (tuned)"].text == "47.5 ± 3.5"
    assert cells(table, "a")["GST-T2"].text == "80.0 (n=1)"
    assert cells(table, "a")["Original"].text == "10.0"
    assert cells(table, "macro loss, nats per answer token")["GST-G3"].text == "0.900 ± 0.000"
    assert cells(table, "macro loss, nats per answer token")["GST-G3"].mark == "best"


def test_a_cell_or_an_arm_without_runs_is_missing(tmp_path: Path):
    grid = small(tmp_path)
    table = accuracy_tables(grid, "T1")[0]
    ours = [row for row in table.rows if row[0].text != LABEL]
    assert {row[table.columns.index("Individual")].text for row in ours} == {"missing"}
    # A study without any run has a table of its own all the same, with the other study's datasets.
    low = accuracy_tables(grid, "T2")[0]
    assert [row[0].text for row in low.rows[:2]] == ["a", "b"]
    assert {cell.text for row in low.rows if row[0].text != LABEL for cell in row[1:]} == {"missing"}
    listed = {row[0].text: row[1].text for row in problems(grid).rows}
    assert listed["full/gst-t2-s1"] == listed["low/mix_all-s0"] == listed["full/individual-s0"] == "missing"
    assert "full/original-s1" not in listed


def test_published_numbers_are_labelled_and_in_no_average(tmp_path: Path):
    table = accuracy_tables(small(tmp_path), "T1")[0]
    published = cells(table, LABEL)
    assert [published[c].text for c in ("Original", "Mix-all (tuned)", "GST-T2", "GST-G3")] == [
        "-",
        "74.2",
        "74.5",
        "75.0",
    ]
    assert {cell.mark for cell in list(published.values())[1:]} == {"reference"}
    assert all(cell.value is None and not cell.runs for cell in published.values())


def test_nan_losses_are_marked_and_never_averaged(tmp_path: Path):
    write_spec(tmp_path)
    write_arm(tmp_path / "full", "mix_all", 0, {"a": 0.5}, losses={0: 3.0, 40: 1.0})
    write_arm(tmp_path / "full", "mix_all", 1, {"a": 0.5}, losses={0: 3.0, 40: math.nan})
    grid = results(tmp_path)
    table = accuracy_tables(grid, "T1")[0]
    for name in ("a", "weighted token accuracy", "macro exact match", "macro loss, nats per answer token"):
        cell = cells(table, name)["Mix-all (tuned)"]
        assert (cell.text, cell.mark) == ("NaN in 1 of 2", "nan"), name


def test_a_run_of_other_code_is_excluded_with_its_reason(tmp_path: Path):
    write_spec(tmp_path)
    for arm, code in (("mix_all", "a" * 64), ("gst-g3", "b" * 64)):
        write_arm(tmp_path / "full", arm, 0, {"a": 0.5}, code_digest=code)
    strict, loose = results(tmp_path), results(tmp_path, any_code=True)
    reasons = {row[0].text: (row[1].text, row[2].text) for row in problems(strict).rows}
    assert reasons["full/gst-g3-s0"][0] == "excluded"
    assert "another code digest" in reasons["full/gst-g3-s0"][1]
    assert cells(accuracy_tables(strict, "T1")[0], "a")["GST-G3"].text == "missing"
    assert cells(accuracy_tables(loose, "T1")[0], "a")["GST-G3"].text == "50.0 (n=1)"


def test_metrics_of_answers_in_their_own_scales(tmp_path: Path):
    table = accuracy_tables(small(tmp_path), "T1")[1]
    rows = {(row[0].text, row[1].text): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["a", "WER, % (lower is better)"]["Original"].text == "125.0"
    assert rows["b", "CIDEr-D (0 to 10)"]["Original"].text == "0.50"
    assert rows["mean of 1", "CIDEr-D (0 to 10)"]["Original"].text == "0.50"
    assert rows["a", "WER, % (lower is better)"]["Mix-all (tuned)"].text == "missing"
    assert rows["a", "WER, % (lower is better)"]["answers"].text == "8"


def test_a_grid_that_generated_nothing_says_so(tmp_path: Path):
    write_spec(tmp_path)
    write_arm(tmp_path / "full", "mix_all", 0, {"a": 0.5})
    table = accuracy_tables(results(tmp_path), "T1")[1]
    assert table.rows == ()
    assert "No answers were generated" in table.notes[0]


def test_comparisons_of_a_table_by_hand(tmp_path: Path):
    grid = small(tmp_path)
    study = grid.studies["full"]
    found = ask(grid, study, against(grid, "mix_all", ["mix_all", "gst-g3", "gst-t2"]), ACCURACY)
    assert [(c.metric, c.question.ours) for c in found] == [(m, arm) for m in ACCURACY for arm in ("gst-g3", "gst-t2")]
    # Weighted: (0.6 * 20 + 0.5 * 30) / 50 = 0.54 and 0.64 against 0.44 and 0.48.
    assert found[0].paired.difference == pytest.approx(0.13)
    assert found[0].paired.n == 2
    # Holm over the one test there is: GST-T2 has one seed and no test.
    assert found[0].holm_p == pytest.approx(found[0].paired.t_p)
    assert found[1].holm_p is None
    assert not any(c.established for c in found), "two seeds establish nothing, whatever p is"
    assert found[0].two_level is not None and found[0].two_level.difference == pytest.approx(0.13)
    table = contrast_table(found, name="T1-comparisons", title="t")
    row = cells(table, "GST-G3 - Mix-all (tuned)")
    assert (row["difference"].text, row["seeds"].text) == ("+13.0", "2")
    assert f"{row['notes'].text[0]}: fewer than 5 pairs: description, not evidence." in table.notes


def test_cost_to_target_by_hand(tmp_path: Path):
    tables = {table.name: table for table in cost_tables(small(tmp_path), "a machine")}
    ours = cells(tables["T6"], "GST-G3")
    # 10 steps of 10 samples and 2 s, and the probe of 50 samples and 5 s; Mix-all needs 20 steps.
    assert ours["samples"].text == "150 ± 0"
    assert ours["speed-up in samples"].text == "25 ± 0 %"
    # The probe's samples are 5 more steps: 15 x 2 s.
    assert (ours["reference time"].text, ours["seconds per step"].text) == ("30.0 s ± 0.0 s", "2.00")
    assert cells(tables["T6-speed-up"], "GST-G3")["reference time"].value == pytest.approx(25.0)
    assert cells(tables["T6-own-stop"], "GST-G3")["samples"].text == "450 ± 0"
    assert cells(tables["T6"], "Individual")["samples"].text == "missing"
    assert any("a machine" in note for note in tables["T6"].notes)


def test_a_run_that_does_not_say_what_its_affinity_cost_keeps_its_accuracy(tmp_path: Path):
    write_spec(tmp_path)
    write_arm(tmp_path / "full", "mix_all", 0, {"a": 0.5})
    write_arm(tmp_path / "full", "gst-g3", 0, {"a": 0.6}, uses_affinity=True)
    grid = results(tmp_path)
    assert cells(accuracy_tables(grid, "T1")[0], "a")["GST-G3"].text == "60.0 (n=1)"
    assert cells(cost_tables(grid, "")[0], "GST-G3")["samples"].text == "missing"
    assert ("full/gst-g3-s0", "no cost") in {(row[0].text, row[1].text) for row in problems(grid).rows}


def partitioned(out: Path, affinity: float, seeds: int) -> GridResults:
    """T4 with partitions at 0.50 to 0.54 and a little noise that all arms of a seed do not share."""
    write_spec(out, seeds=tuple(range(seeds)))
    for seed in range(seeds):
        level = 0.02 * seed
        arms = {"mix_all": 0.5, "gst-g3": affinity, **{p: 0.5 + 0.01 * i for i, p in enumerate(PARTITIONS)}}
        for number, (arm, accuracy) in enumerate(arms.items()):
            noise = 0.005 * ((seed * (number + 2)) % 5 - 2)
            write_arm(out / "full", arm, seed, {"a": accuracy + level + noise})
    return results(out)


def test_affinity_among_partitions_by_hand(tmp_path: Path):
    grid = partitioned(tmp_path, 0.53, 1)
    table, places = grouping_tables(grid)
    names = [row[0].text for row in table.rows]
    assert names[:2] == ["affinity (GST-G3)", "random partition 1"]
    assert names[6] == "5 random partitions: mean ± spread over them"
    # Partitions 50, 51, 52, 53, 54 less the noise of seed 0 (-1 each): mean 51, spread sqrt(2.5).
    assert table.rows[6][1].text == "51.0 ± 1.6"
    assert table.rows[6][1].n == 5
    place = cells(places, "weighted token accuracy")
    assert (place["affinity"].text, place["partitions: mean"].text) == ("52.0", "51.0")
    assert (place["lowest"].text, place["highest"].text) == ("49.0", "53.0")
    assert place["affinity's rank"].text.startswith("2 of 6")


@pytest.mark.parametrize(
    ("affinity", "seeds", "expected"),
    [
        (0.52, 2, "is not established"),
        (0.52, 5, "No effect of grouping"),
        (0.70, 5, "better in"),
        (0.30, 5, "worse in"),
    ],
)
def test_the_verdict_on_grouping_says_no_more_than_the_seeds(
    tmp_path: Path, affinity: float, seeds: int, expected: str
):
    grid = partitioned(tmp_path, affinity, seeds)
    found = ask(grid, grid.studies["full"], grouping_questions(grid), ACCURACY)
    first = found[0]
    assert first.question.theirs == PARTITIONS
    assert first.paired.difference == pytest.approx(affinity - 0.52, abs=0.01)
    assert expected in grouping_verdict(found)


def test_without_partitions_the_grouping_cannot_be_judged(tmp_path: Path):
    grid = small(tmp_path)
    found = ask(grid, grid.studies["full"], grouping_questions(grid), ACCURACY)
    assert "cannot be said" in grouping_verdict(found)
    assert cells(grouping_tables(grid)[1], "weighted token accuracy")["affinity"].text == "missing"


def test_orders_stand_beside_what_is_published(tmp_path: Path):
    table = order_table(small(tmp_path))[0]
    assert cells(table, "progressive (GST-G3)")["weighted token accuracy, %"].text == "59.0 ± 7.1"
    assert cells(table, "strict cycle")["weighted token accuracy, %"].text == "missing"
    assert cells(table, "strict cycle")[LABEL].text == "64.0 / 68.2"


def test_ways_to_measure_affinity_and_what_is_not_there(tmp_path: Path):
    grid = small(tmp_path)
    assert all(
        cell.text == "missing"
        for row in agreement_tables(grid, read_agreement(tmp_path / "none"))[0].rows
        for cell in row[1:]
    )
    write_agreement(tmp_path / "full", ["a", "b", "c", "d"])
    path = tmp_path / "full" / "affinity" / "agreement.json"
    views, pairs, arms = agreement_tables(grid, read_agreement(path))
    assert cells(views, "distance, corrected")["time"].text == "41.0 s"
    assert cells(views, "transferability")["reliability"].text == "unknown"
    assert cells(views, "distance, preconditioned (Adam)")["samples"].text == "missing"
    assert cells(pairs, "distance, corrected / cosine, corrected")["dataset pairs"].text == "91"
    assert [row[0].text for row in arms.rows] == [grid.title(arm) for arm in ("mix_all", *grid.spec.arms_of("T5"))]
    assert pairs.rows[0][2].text == "0.001"
    assert cells(pairs, "cosine, raw / transferability")["groups: adjusted Rand index"].text == "unknown"
    path.write_text(json.dumps({"views": [{"name": "x"}]}))
    with pytest.raises(ConfigError, match="agreement"):
        read_agreement(path)


def test_every_candidate_of_the_search_and_the_chosen_one(tmp_path: Path):
    grid = small(tmp_path)
    table = tuning_table(grid)
    axes = grid.spec.search.axes
    assert len(table.rows) == sum(len(axis.candidates) for axis in axes.values())
    assert [row[-1].mark for row in table.rows].count("best") == len(axes)
    assert table.rows[-1][-1].text == "NaN"
    first = next(iter(axes))
    assert table.rows[0][-1].runs == (f"tune/{first}-{next(iter(axes[first].candidates))}-s1000",)
    untuned = write_spec(tmp_path, tuned=False)
    again = tuning_table(GridResults(tmp_path, untuned, grid.studies))
    assert {row[-1].text for row in again.rows} == {"missing"}
    assert "(not tuned)" in again.title


def test_a_grid_without_runs_is_an_error(tmp_path: Path):
    write_spec(tmp_path)
    with pytest.raises(ConfigError, match="no finished run"):
        results(tmp_path)


def test_a_grid_may_have_few_tables(tmp_path: Path):
    grid = small(tmp_path)
    tree = grid.spec.model_dump(mode="json")
    tree["tables"] = {"T1": tree["tables"]["T1"]}
    few = GridResults(tmp_path, GridSpec.model_validate(tree), grid.studies)
    assert order_table(few) == grouping_tables(few) == cost_tables(few, "") == accuracy_tables(few, "T7") == []


def test_runs_behind_cells_are_said_once_and_deviations_by_name(tmp_path: Path):
    grid = small(tmp_path)
    found = {trace.label: trace.runs for trace in traces(accuracy_tables(grid, "T1")[0])}
    assert found["GST-T2"] == ("full/gst-t2-s0",)
    by_row = {trace.label: trace.runs for trace in traces(order_table(grid)[0])}
    assert by_row["progressive (GST-G3)"] == ("full/gst-g3-s0", "full/gst-g3-s1")
    anchors = {row[0].anchor for row in run_sources(grid, read_search(tmp_path)).rows}
    assert {run_anchor(run) for runs in found.values() for run in runs} <= anchors


def test_anchors_of_different_runs_differ():
    names = ("full/a-s0", "full.a-s0", "full-a-s0", "full a-s0", 'full"a-s0', "full.2f.a-s0")
    assert len({run_anchor(name) for name in names}) == len(names)


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_format_of_every_table_parses(tmp_path: Path):
    grid = small(tmp_path)
    study = grid.studies["full"]
    questions = ask(grid, study, against(grid, "mix_all", ["gst-g3"]), ACCURACY)
    tables = [*accuracy_tables(grid, "T1"), *order_table(grid), *grouping_tables(grid), *cost_tables(grid, "m")]
    tables += [contrast_table(questions, name="c", title="t"), tuning_table(grid), problems(grid)]
    for table in tables:
        rows = list(csv.reader(io.StringIO(to_csv(table))))
        assert len({len(row) for row in rows}) == 1
        assert len(rows) == len(table.rows) + 1
        latex = to_latex(table)
        assert latex.replace(r"\{", "").count("{") == latex.replace(r"\}", "").count("}")
        assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
        lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 1}
        checker = Balanced()
        checker.feed(table_page(table))
        assert checker.open == []
