from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.report.averages import macro, weighted
from pipeline.report.compare import compare_arms, final_average, is_random
from pipeline.report.cost import judge
from pipeline.report.examples import FILE, read_all, read_examples, two_level_difference
from pipeline.report.provenance import problems_table
from pipeline.report.runs import Experiment, Run, read_experiment
from tests.unit.report.example import evaluation, write_probe, write_run

SIZES = {"a": 8, "b": 20}


def example_rows(arm: str, seed: int, sizes: dict[str, int] = SIZES) -> list[dict[str, Any]]:
    """Rows as training writes them; every third example of b was answered freely."""
    rng = np.random.default_rng([len(arm), seed])
    rows = []
    for name, n in sizes.items():
        for number in range(n):
            tokens = 2 + number % 5
            correct = int(rng.binomial(tokens, 0.6))
            row = {"dataset": name, "id": f"{name}-{number:03d}", "task": "qa", "question": "q?", "answers": ["x"]}
            row |= {"tokens": tokens, "correct": correct, "loss_sum": tokens * float(rng.random())}
            row |= {"exact": correct == tokens, "prediction": None, "metrics": None}
            if name == "b" and number % 3 == 0:
                row |= {"prediction": "x", "metrics": {"rouge_l": float(rng.random()), "wer": float(rng.random())}}
            rows.append(row)
    return rows


def scores_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in sorted({row["dataset"] for row in rows}):
        its = [row for row in rows if row["dataset"] == name]
        tokens = sum(row["tokens"] for row in its)
        metrics = [row["metrics"] for row in its if row["metrics"]]
        found[name] = {
            "loss": sum(row["loss_sum"] for row in its) / tokens,
            "token_accuracy": sum(row["correct"] for row in its) / tokens,
            "exact_match": sum(row["exact"] for row in its) / len(its),
            "tokens": tokens,
            "examples": len(its),
            "generated": len(metrics),
        }
        if metrics:
            # As a dataset's WER is: not the mean of its examples'.
            found[name]["metrics"] = {"rouge_l": sum(m["rouge_l"] for m in metrics) / len(metrics), "wer": 0.123}
    return found


def write_scored(out: Path, arm: str, seed: int, rows: list[dict[str, Any]], **info: Any) -> Path:
    scores = scores_of(rows)
    folder = write_run(out, arm, seed, [evaluation(0, scores)], scores, **info)
    (folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def several(out: Path, seeds: int = 5) -> Experiment:
    for seed in range(seeds):
        for arm in ("mix_all", "gst-g3", "gst-random-3-p0", "gst-random-3-p1x"):
            write_scored(out, arm, seed, example_rows(arm, seed), uses_affinity=arm == "gst-g3")
    write_probe(out, samples=50, seconds=5.0, tokens=100)
    return read_experiment(out)


def one(out: Path, rows: list[dict[str, Any]] | None = None) -> tuple[Run, Path]:
    folder = write_scored(out, "mix_all", 0, rows or example_rows("mix_all", 0))
    return read_experiment(out).runs[0], folder / FILE


def test_examples_are_arrays_in_the_order_of_their_ids(tmp_path: Path):
    rows = example_rows("mix_all", 0)
    run, path = one(tmp_path, rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    held = read_examples(run)
    assert held.problem == ""
    found = held.datasets["b"]
    its = [row for row in rows if row["dataset"] == "b"]
    assert found.ids == tuple(row["id"] for row in its)
    assert found.tokens.tolist() == [row["tokens"] for row in its]
    assert found.correct.tolist() == [row["correct"] for row in its]
    assert found.exact.tolist() == [float(row["exact"]) for row in its]
    assert found.loss_sum.tolist() == [row["loss_sum"] for row in its]
    assert np.isfinite(found.metrics["rouge_l"]).tolist() == [row["metrics"] is not None for row in its]
    assert "wer" not in found.metrics  # its dataset's value is no mean over examples


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:20]], "line 28 is torn"),
        (lambda lines: [*lines, lines[0]], "example a-000 of a is there twice"),
        (lambda lines: lines[1:], "is of another run: examples of a does not add up (7 against 8)"),
        (lambda lines: [*lines, "[3]"], "line 29 is torn"),
        (lambda lines: [line for line in lines if '"b"' not in line], "other datasets than in result.json (a)"),
        (lambda lines: [], "other datasets than in result.json"),
    ],
)
def test_a_damaged_file_is_not_used_and_the_run_stays(tmp_path: Path, damage: Any, problem: str):
    run, path = one(tmp_path)
    path.write_text("".join(line + "\n" for line in damage(path.read_text().splitlines())))
    held = read_examples(run)
    assert problem in held.problem
    assert held.datasets == {}
    experiment = read_experiment(tmp_path)
    rows = problems_table(experiment, judge(experiment), read_all(experiment)).rows
    assert ["mix_all-s0", "no examples", held.problem] in [[cell.text for cell in row] for row in rows]


@pytest.mark.parametrize("change", [{"correct": 0}, {"loss_sum": 99.0}, {"tokens": 77}])
def test_a_file_of_another_run_is_told_by_its_sums(tmp_path: Path, change: dict[str, Any]):
    rows = example_rows("mix_all", 0)
    run, path = one(tmp_path, rows)
    assert rows[3]["correct"] > 0
    rows[3] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "is of another run" in read_examples(run).problem


def test_a_nan_loss_adds_up_to_nan_and_leaves_the_accuracy(tmp_path: Path):
    rows = example_rows("mix_all", 0)
    rows[0]["loss_sum"] = math.nan
    run, _ = one(tmp_path, rows)
    held = read_examples(run)
    assert held.problem == ""
    assert math.isnan(held.datasets["a"].loss_sum[0])


def test_an_older_run_has_no_examples(tmp_path: Path):
    run, path = one(tmp_path)
    path.unlink()
    assert read_examples(run).problem == f"no {FILE}"


@pytest.mark.parametrize("kind", ["weighted", "macro"])
@pytest.mark.parametrize("name", ["token_accuracy", "exact_match", "loss", "rouge_l"])
def test_the_difference_is_that_of_the_averages(tmp_path: Path, kind: str, name: str):
    experiment = several(tmp_path)
    found = two_level_difference(experiment, read_all(experiment), "gst-g3", ("mix_all",), kind=kind, name=name)
    means = {
        arm: np.mean([final_average(run, experiment, kind, name) for run in experiment.of_arm(arm)])
        for arm in ("gst-g3", "mix_all")
    }
    assert found.difference == pytest.approx(means["gst-g3"] - means["mix_all"], abs=1e-12)
    assert found.interval[0] < found.difference < found.interval[1]
    assert (found.n_seeds, found.n_examples) == (5, 7 if name == "rouge_l" else 28)


def test_several_arms_are_compared_with_by_their_mean(tmp_path: Path):
    experiment = several(tmp_path)
    examples = read_all(experiment)
    randoms = [arm for arm in experiment.arms if is_random(arm)]
    assert len(randoms) == 2
    each = [two_level_difference(experiment, examples, "gst-g3", (arm,)) for arm in randoms]
    both = two_level_difference(experiment, examples, "gst-g3", randoms)
    assert both.difference == pytest.approx(np.mean([item.difference for item in each]))


def test_comparisons_carry_the_interval_for_accuracies_only(tmp_path: Path):
    experiment = several(tmp_path)
    judgement = judge(experiment)
    with_them = compare_arms(experiment, judgement, read_all(experiment))
    accuracy = [item for item in with_them if "accuracy" in item.metric]
    assert len(accuracy) == 10
    assert all(item.two_level.difference == pytest.approx(item.paired.difference) for item in accuracy)
    assert all(item.two_level is None for item in with_them if item not in accuracy)
    assert all(item.two_level is None for item in compare_arms(experiment, judgement))


def test_why_there_is_no_interval_is_said(tmp_path: Path):
    experiment = several(tmp_path)
    examples = read_all(experiment)

    def note(name: str = "token_accuracy", arms: tuple[str, str] = ("gst-g3", "mix_all")) -> str:
        found = two_level_difference(experiment, examples, arms[0], arms[1:], name=name)
        assert found.interval is None
        return found.note

    assert "wer is not a mean over examples in b" in note("wer")
    assert note("no_such_metric") == "no test examples"
    assert note(arms=("original", "mix_all")) == "no common seed"
    del examples["gst-g3-s3"]
    assert note() == "gst-g3-s3: its examples were not read"


def test_runs_on_other_test_examples_are_not_paired(tmp_path: Path):
    for arm in ("mix_all", "gst-g3"):
        rows = example_rows(arm, 0)
        rows[2]["id"] += "x" if arm == "gst-g3" else ""
        write_scored(tmp_path, arm, 0, rows)
    experiment = read_experiment(tmp_path)
    found = two_level_difference(experiment, read_all(experiment), "gst-g3", ("mix_all",))
    assert found.note == "mix_all-s0 and gst-g3-s0 do not have the same test examples and answer tokens in a"


def test_averages_of_a_metric_are_over_the_datasets_that_have_it(tmp_path: Path):
    experiment = several(tmp_path, seeds=1)
    run = experiment.runs[0]
    value = run.result.scores["b"].metrics["rouge_l"]
    assert final_average(run, experiment, "macro", "rouge_l") == value
    assert final_average(run, experiment, "macro", "bleu") is None
    assert math.isnan(macro(run.result.scores, ["a", "b"], "rouge_l"))
    assert math.isnan(weighted(run.result.scores, [], "token_accuracy"))
    # Weighted by test examples (20), not by those answered freely (7).
    assert weighted(run.result.scores, ["a", "b"], "exact_match") == pytest.approx(
        (8 * run.result.scores["a"].exact_match + 20 * run.result.scores["b"].exact_match) / 28
    )


def test_random_groups_are_told_from_a_random_order_of_real_groups():
    assert [arm for arm in ("gst-random-3", "gst-random-3-p4", "gst-random-order", "gst-g3") if is_random(arm)] == [
        "gst-random-3",
        "gst-random-3-p4",
    ]
