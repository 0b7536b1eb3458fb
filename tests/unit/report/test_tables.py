from __future__ import annotations

import csv
import io
from pathlib import Path

from pipeline.report.compare import compare_arms
from pipeline.report.cost import judge
from pipeline.report.cost_tables import cost_table, own_stop_table
from pipeline.report.render import to_csv, to_html, to_latex, to_markdown, to_text
from pipeline.report.runs import Experiment, read_experiment
from pipeline.report.summary import summary_sentences
from pipeline.report.table import Cell, Table, duration, mark_best, seed_cell, text
from pipeline.report.tables import accuracy_table, published_table, stage_table
from tests.unit.report.example import evaluation, score, write_probe, write_run

NASTY = '<script>alert("x")</script> a|b _c_ & $5 100%'


def row(table: Table, name: str) -> dict[str, Cell]:
    found = next(cells for cells in table.rows if cells[0].text == name)
    return dict(zip(table.columns, found, strict=True))


def two_seeds(out: Path) -> Experiment:
    for seed, accuracy in ((0, 0.50), (1, 0.60)):
        tests = {"a": score(1.0, accuracy, 0.2, examples=10), "b": score(1.0, 0.9, 0.4, examples=30)}
        write_run(out, "mix_all", seed, [evaluation(10, tests)], tests)
    write_run(out, "gst-g3", 0, [evaluation(10, tests)], {"a": score(1.0, float("nan")), "b": score(1.0, 0.8)})
    write_run(out, "individual", 0, [], {"a": score(1.0, 0.7)})
    return read_experiment(out)


def test_cells_are_mean_and_spread_over_seeds_with_their_runs(tmp_path: Path):
    cell = row(accuracy_table(two_seeds(tmp_path)), "a")["mix_all"]
    assert cell.text == "55.0 ± 7.1"
    assert (cell.n, cell.runs) == (2, ("mix_all-s0", "mix_all-s1"))


def test_averages_by_hand(tmp_path: Path):
    table = accuracy_table(two_seeds(tmp_path))
    # Seeds: weighted (0.5 * 10 + 0.9 * 30) / 40 = 0.80 and 0.825; macro 0.70 and 0.75.
    assert row(table, "weighted token accuracy")["mix_all"].text == "81.2 ± 1.8"
    assert row(table, "macro token accuracy")["mix_all"].text == "72.5 ± 3.5"
    assert row(table, "weighted exact match")["mix_all"].text == "35.0 ± 0.0"
    assert row(table, "macro exact match")["mix_all"].text == "30.0 ± 0.0"


def test_missing_cells_nan_and_short_arms_are_marked(tmp_path: Path):
    table = accuracy_table(two_seeds(tmp_path))
    assert row(table, "b")["individual"].text == "missing"
    assert row(table, "b")["gst-g3"].text == "80.0 (n=1)"
    assert row(table, "a")["gst-g3"].mark == "nan"
    # No average over fewer datasets than the others have.
    assert row(table, "macro token accuracy")["individual"].mark == "missing"
    assert row(table, "macro token accuracy")["gst-g3"].mark == "nan"


def test_a_missing_arm_has_a_column_of_missing_cells(tmp_path: Path):
    two_seeds(tmp_path)
    table = accuracy_table(read_experiment(tmp_path, arms=["gst-random-3"]))
    assert {cells[table.columns.index("gst-random-3")].text for cells in table.rows} == {"missing"}


def test_best_marks_ties_by_the_printed_number_and_skips_missing():
    cells = mark_best(
        [Cell("61.2 ± 0.1", 61.21), Cell("61.2", 61.24), Cell("60.0", 60.0), Cell("missing", mark="missing")]
    )
    assert [cell.mark for cell in cells] == ["best", "best", "", "missing"]


def test_one_nan_seed_is_not_averaged_away():
    assert seed_cell({"r0": 0.5, "r1": float("nan")}).text == "NaN in 1 of 2"


def judged(out: Path) -> tuple[Experiment, object]:
    flat = {"a": 1.0, "b": 1.0}
    worse = {"a": 1.0, "b": 9.0}
    for seed in (0, 1):
        write_run(out, "mix_all", seed, [evaluation(0, worse), evaluation(20, flat)], flat)
    write_run(out, "gst-g3", 0, [evaluation(0, worse), evaluation(10, flat)], flat, uses_affinity=True)
    write_run(out, "gst-g3", 1, [evaluation(0, worse), evaluation(10, flat)], flat, uses_affinity=True)
    for seed in (0, 1):
        write_run(out, "gst-random-3", seed, [evaluation(0, worse)], worse)
    write_probe(out, samples=50, seconds=5.0, tokens=100)
    experiment = read_experiment(out)
    return experiment, judge(experiment)


def test_cost_table_prints_speed_up_and_not_reached(tmp_path: Path):
    table = cost_table(*judged(tmp_path))
    ours = row(table, "gst-g3")
    # (100 + 50) samples against 200; (20 + 5) seconds against 40.
    assert ours["samples"].text == "150 ± 0"
    assert ours["probe"].text == "50"
    assert ours["speed-up in samples"].text == "25 ± 0 %"
    assert ours["speed-up in time"].value == 37.5
    control = row(table, "gst-random-3")
    assert control["samples"].text == "not reached"
    assert control["speed-up in samples"].text == "not reached"
    assert control["datasets"].text == "1/1/2"
    assert control["seeds"].text == "0 of 2"


def test_own_stop_stands_beside_its_quality(tmp_path: Path):
    cells = row(own_stop_table(*judged(tmp_path)), "gst-random-3")
    assert cells["macro loss"].text == "5.000 ± 0.000"
    assert cells["samples"].text == "400 ± 0"


def test_summary_claims_nothing_from_few_seeds(tmp_path: Path):
    experiment, judgement = judged(tmp_path)
    sentences = summary_sentences(experiment, judgement, compare_arms(experiment, judgement))
    whole = "\n".join(sentences)
    assert (
        "gst-g3 reached the target in 2 of 2 seed(s), after 150 samples on average (50 of them for the probe)" in whole
    )
    assert "25 % fewer than mix_all" in whole
    assert "gst-random-3 did not reach the target" in whole
    assert "1 of 2 datasets" in whole
    assert "does not tell whether affinity groups beat random ones" in whole


def test_five_clear_seeds_are_said_to_differ_and_a_null_result_to_be_one(tmp_path: Path):
    for seed in range(5):
        for arm, accuracy in (("mix_all", 0.5), ("gst-g3", 0.7), ("gst-random-3", 0.5)):
            noise = 0.01 * ((seed * (len(arm) + 1)) % 5 - 2)
            tests = {"a": score(1.0, accuracy + noise)}
            write_run(tmp_path, arm, seed, [evaluation(0, tests)], tests, uses_affinity=arm == "gst-g3")
    write_probe(tmp_path, samples=50, seconds=5.0, tokens=100)
    experiment = read_experiment(tmp_path)
    judgement = judge(experiment)
    whole = "\n".join(summary_sentences(experiment, judgement, compare_arms(experiment, judgement)))
    better = (
        "affinity groups are better in weighted token accuracy and better in macro token accuracy (Holm's p < 0.05)"
    )
    assert better in whole
    null = [c for c in compare_arms(experiment, judgement) if (c.ours, c.theirs) == ("gst-random-3", "mix_all")]
    assert all(c.holm_p is None or c.holm_p > 0.5 for c in null)


def test_one_seed_concludes_nothing(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, {"a": 1.0})], {"a": 1.0})
    experiment = read_experiment(tmp_path)
    judgement = judge(experiment)
    assert "nothing can be concluded" in summary_sentences(experiment, judgement, [])[0]


def test_stages_tell_what_entered_and_the_numbers(tmp_path: Path):
    stages = [
        {"event": "stage", "step": 0, "samples": 0, "stage": 0, "pool": ["b"], "reason": {"rule": "start"}},
        {
            "event": "stage",
            "step": 20,
            "samples": 200,
            "stage": 1,
            "pool": ["b", "a"],
            "reason": {"rule": "plateau", "gain": 0.01234},
        },
    ]
    write_run(tmp_path, "gst-g3", 0, stages, {"a": 1.0, "b": 1.0})
    write_run(tmp_path, "mix_all", 0, stages[:1], {"a": 1.0, "b": 1.0})
    experiment = read_experiment(tmp_path)
    last = [cell.text for cell in stage_table(experiment).rows[-1]]
    assert last == ["gst-g3-s0", "1", "20", "200", "50 %", "a", "plateau", "gain 0.01234"]
    assert {cells[0].text for cells in stage_table(experiment, brief=True).rows} == {"gst-g3-s0"}


def test_published_numbers_are_labelled_and_marked():
    table = published_table()
    assert "Published, other data and model" in table.title
    assert all(cell.mark == "reference" for cells in table.rows for cell in cells[1:])


def nasty_table() -> Table:
    return Table(
        "t", NASTY, (NASTY, "n"), ((text(NASTY), Cell("1.0 ± 0.5", 1.0, 0.5, 2, ("r-s0", "r-s1"), "best")),), (NASTY,)
    )


def test_html_escapes_everything():
    shown = to_html(nasty_table())
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5
    assert '<td class="best" title="r-s0 r-s1">1.0 ± 0.5</td>' in shown


def test_markdown_keeps_its_columns():
    lines = to_markdown(nasty_table()).splitlines()
    body = lines[4]
    assert body.replace("\\|", "").count("|") == 3
    assert "\\<script\\>" in body
    assert "**1.0 ± 0.5**" in body


def test_latex_escapes_specials():
    shown = to_latex(nasty_table())
    assert r"a|b \_c\_ \& \$5 100\%" in shown
    assert r"\textbf{1.0 $\pm$ 0.5}" in shown


def test_csv_holds_the_numbers_behind_a_cell():
    rows = list(csv.DictReader(io.StringIO(to_csv(nasty_table()))))
    assert rows == [{NASTY: NASTY, "n": "1.0", "n sd": "0.5", "n n": "2", "n runs": "r-s0 r-s1"}]


def test_text_takes_names_literally_and_marks_the_best():
    shown = to_text(Table("t", "[bold]title", ("name", "n"), ((text("[red]x"), Cell("3", 3.0, mark="best")),)))
    assert "[bold]title" in shown
    assert "[red]x" in shown
    assert "3*" in shown


def test_durations():
    assert [duration(s) for s in (1.25, 119.0, 125.0, 11220.0)] == ["1.2 s", "119.0 s", "2 min 05 s", "3 h 07 min"]
