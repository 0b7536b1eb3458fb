"""Conflict between datasets: read from the log, averaged, drawn."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.report.build import build_report
from pipeline.report.conflict import NOTHING, conflict_table, noise_table
from pipeline.report.runs import read_experiment
from tests.unit.report.example import evaluation, write_run


def step(number: int) -> dict:
    clock = {"step": number, "samples": 10 * number, "tokens": 0, "wall_s": 0.0}
    return {"event": "step", "t": 0.0, **clock, "loss": 1.0, "lr": 0.1, "datasets": {}}


def window(number: int, cosine: float | None, noise: dict[str, float], **more: object) -> dict:
    event = {"event": "sketch", "t": 0.0, "step": number, "micro_batches": 8, "datasets": 2, "dropped": 0, **more}
    if cosine is not None:
        event |= {"cosine": {"a": {"b": cosine}}, "mean_cosine": cosine, "negative_share": float(cosine < 0)}
    return {**event, "noise_scale": noise}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = [
        step(1), window(1, -0.5, {"a": 4.0}), step(2), window(2, 0.1, {"a": 6.0, "b": 9.0}, dropped=2),
        {"event": "resume", "t": 0.0, "step": 1},
        step(2), window(2, 0.3, {"a": 8.0, "b": 9.0}, dropped=3, second_seed={"cosine_error": 0.02}),
        step(3), window(3, None, {}),
    ]  # fmt: skip
    write_run(tmp_path, "mix_all", 0, [evaluation(0, {"a": 1.0, "b": 1.0}), *first], {"a": 1.0, "b": 1.0})
    second = [evaluation(0, {"a": 1.0, "b": 1.0}), step(1), window(1, 0.5, {"a": 20.0})]
    write_run(tmp_path, "mix_all", 1, second, {"a": 1.0, "b": 1.0})
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, {"a": 1.0, "b": 1.0})], {"a": 1.0, "b": 1.0})
    return tmp_path


def test_windows_are_averaged_over_time_then_over_seeds(folder: Path) -> None:
    (row,) = conflict_table(read_experiment(folder)).rows
    arm, windows, negative, cosine, pair, error, dropped = row
    assert (arm.text, windows.value, dropped.value) == ("mix_all", 4, 3)  # what the resume made void is not counted
    assert negative.value == pytest.approx(100 * (0.5 + 0.0) / 2)
    assert cosine.value == pytest.approx(((-0.5 + 0.3) / 2 + 0.5) / 2)
    assert pair.text == "a / b: +0.10"
    assert error.value == pytest.approx(0.02)


def test_noise_scales_are_medians_and_say_what_is_missing(folder: Path) -> None:
    table = noise_table(read_experiment(folder))
    assert table.columns == ("dataset", "mix_all")
    assert [row[0].text for row in table.rows] == ["a", "b"]
    assert table.rows[0][1].value == pytest.approx((6.0 + 20.0) / 2)
    assert table.rows[1][1].value == pytest.approx(9.0) and table.rows[1][1].n == 1


def test_the_figure_draws_what_the_log_says(folder: Path) -> None:
    build_report(folder, folder / "report")
    with open(folder / "report" / "figures" / "conflict.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["samples"], row["mean_cosine"]) for row in rows] == [
        ("0", "10", "-0.5"),
        ("0", "20", "0.3"),
        ("0", "30", "nan"),
        ("1", "10", "0.5"),
    ]
    assert (folder / "report" / "figures" / "conflict.png").stat().st_size > 1000


def test_runs_without_sketches_have_no_figure_and_the_table_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "mix_all", 0, [evaluation(0, {"a": 1.0})], {"a": 1.0})
    built = build_report(tmp_path, tmp_path / "report")
    assert built.tables["conflict"].rows == () and built.tables["conflict"].notes == (NOTHING,)
    assert not (tmp_path / "report" / "figures" / "conflict.png").exists()
