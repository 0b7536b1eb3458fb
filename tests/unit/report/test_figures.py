from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import AffinityError
from pipeline.report.cost import judge
from pipeline.report.curves import binned_shares, mean_curve
from pipeline.report.figures import heatmap, target_bars, thousands
from pipeline.report.palette import arm_styles, dataset_colors
from pipeline.report.runs import read_experiment
from tests.unit.report.example import evaluation, write_run

NAMES = ["a", "b", "c", "d", "e"]


def test_heatmap_stands_in_group_order_with_neighbours_alike(tmp_path: Path):
    similarity = np.full((5, 5), 0.1)
    for i, j, value in ((0, 4, 0.9), (1, 4, 0.2), (0, 1, 0.2), (2, 3, 0.8)):
        similarity[i, j] = similarity[j, i] = value
    np.fill_diagonal(similarity, 1.0)
    similarity[2, 0] = similarity[0, 2] = np.nan
    heatmap(NAMES, similarity, similarity - 0.1, similarity + 0.1, [["d", "c"], ["a", "b", "e"]], tmp_path / "h")
    rows = list(csv.DictReader((tmp_path / "h.csv").open()))
    order = [row["other"] for row in rows[:5]]
    assert order[:2] == ["d", "c"]
    assert abs(order.index("a") - order.index("e")) == 1
    by_pair = {(row["dataset"], row["other"]): row for row in rows}
    assert float(by_pair["a", "e"]["similarity"]) == 0.9
    assert float(by_pair["c", "d"]["interval_high"]) == pytest.approx(0.9)
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "h.pdf").read_bytes().startswith(b"%PDF")


def test_heatmap_refuses_groups_or_matrices_that_do_not_fit(tmp_path: Path):
    with pytest.raises(AffinityError, match="exactly once"):
        heatmap(NAMES, np.eye(5), None, None, [["a", "b"], ["b", "c", "d", "e"]], tmp_path / "h")
    with pytest.raises(AffinityError, match="does not fit"):
        heatmap(NAMES, np.eye(4), None, None, [NAMES], tmp_path / "h")
    assert not list(tmp_path.iterdir())


def test_shares_count_examples_not_weights(tmp_path: Path):
    step = {"event": "step", "loss": 1.0}
    events = [
        {**step, "step": 1, "samples": 4, "datasets": {"a": {"n": 3}, "b": {"n": 1}}},
        {**step, "step": 2, "samples": 8, "datasets": {"b": {"n": 4}}},
    ]
    write_run(tmp_path, "mix_all", 0, events, {"a": 1.0, "b": 1.0})
    samples, shares = binned_shares(read_experiment(tmp_path).runs[0], ["a", "b"])
    assert samples == [0.0, 4.0, 8.0]
    assert shares == [[0.75, 0.75, 0.0], [0.25, 0.25, 1.0]]


def test_mean_curve_uses_only_steps_that_all_seeds_have(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, {"a": 4.0}), evaluation(10, {"a": 2.0})], {"a": 1.0})
    write_run(tmp_path, "mix_all", 1, [evaluation(0, {"a": 6.0})], {"a": 1.0})
    runs = read_experiment(tmp_path).of_arm("mix_all")
    assert mean_curve(runs, lambda e: e.scores["a"].loss) == [(0.0, 5.0)]


def test_bars_write_not_reached(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(10, {"a": 1.0})], {"a": 1.0})
    write_run(tmp_path, "gst-random-3", 0, [evaluation(10, {"a": 3.0})], {"a": 1.0})
    experiment = read_experiment(tmp_path)
    figure = target_bars(experiment, judge(experiment), tmp_path / "bars")
    rows = {row["arm"]: row for row in csv.DictReader((tmp_path / "bars.csv").open())}
    assert (rows["mix_all"]["samples"], rows["gst-random-3"]["samples"]) == ("100", "not reached")
    assert figure.alt


def test_arms_and_datasets_are_told_apart():
    styles = arm_styles([f"arm{i}" for i in range(14)], "arm5")
    assert len({(s["color"], str(s["linestyle"])) for s in styles.values()}) == 14
    assert styles["arm5"]["color"] == "#000000"
    for n in (1, 14, 30):
        assert len({str(c) for c in dataset_colors([str(i) for i in range(n)]).values()}) == n


def test_thousands():
    assert [thousands(v) for v in (0, 950, 1500, 2.4e6)] == ["0", "950", "1.5k", "2.4M"]
