from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.report.cost import judge
from pipeline.report.provenance import caveats
from pipeline.report.runs import Excluded, Missing, read_experiment
from pipeline.runlog.events import effective_events, read_event_lines
from tests.unit.report.example import evaluation, score, write_probe, write_run

TWO = {"a": 1.0, "b": 2.0}


def steps_of(events: list[dict]) -> list[tuple[str, int]]:
    return [(event["event"], event["step"]) for event in events]


def test_a_resume_voids_what_was_written_after_its_step():
    events = [
        evaluation(0, TWO),
        {"event": "step", "step": 10},
        evaluation(10, {"a": 9.0, "b": 9.0}),
        {"event": "stage", "step": 20, "stage": 1},
        evaluation(20, {"a": 9.0, "b": 9.0}),
        {"event": "resume", "step": 10},
        {"event": "step", "step": 15},
        evaluation(20, {"a": 0.5, "b": 0.5}),
    ]
    kept = effective_events(events)
    assert steps_of(kept) == [("eval", 0), ("step", 10), ("eval", 10), ("step", 15), ("eval", 20)]
    assert kept[-1]["datasets"]["a"]["loss"] == 0.5


def test_a_start_from_scratch_without_a_checkpoint_voids_everything_before():
    events = [
        {"event": "stage", "step": 0, "stage": 0, "reason": {"rule": "start"}},
        evaluation(0, {"a": 9.0, "b": 9.0}),
        {"event": "step", "step": 1},
        {"event": "step", "step": 2},
        {"event": "stage", "step": 0, "stage": 0, "reason": {"rule": "start again"}},
        evaluation(0, TWO),
        {"event": "step", "step": 1},
    ]
    kept = effective_events(events)
    assert steps_of(kept) == [("stage", 0), ("eval", 0), ("step", 1)]
    assert kept[0]["reason"]["rule"] == "start again"


def test_a_restart_at_the_same_step_keeps_the_later_event():
    kept = effective_events([evaluation(0, {"a": 9.0}), evaluation(0, {"a": 1.0})])
    assert [event["datasets"]["a"]["loss"] for event in kept] == [1.0]


def test_torn_lines_are_skipped_and_counted(tmp_path: Path):
    path = tmp_path / "events-rank0.jsonl"
    path.write_text('{"event": "step", "step": 1}\n{"event": "st\n[3]\n{"event": "step", "step": 2}\n{"event": "ev')
    events, torn = read_event_lines(path)
    assert [event["step"] for event in events] == [1, 2]
    assert torn == 3


def test_runs_that_are_not_there_are_named_with_the_reason(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "mix_all", 1, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, TWO)], TWO, status="running")
    (write_run(tmp_path, "gst-random-3", 0, [], TWO) / "result.json").unlink()
    (write_run(tmp_path, "gst-random-3", 1, [], TWO) / "result.json").write_text("{")
    experiment = read_experiment(tmp_path, arms=["original", "gst-g3"])
    reasons = {item.run: item.reason for item in experiment.missing}
    assert reasons["gst-g3-s0"] == "not finished (status: running)"
    assert reasons["gst-g3-s1"] == "no such run"
    assert reasons["gst-random-3-s0"] == "finished, but without result.json"
    assert reasons["gst-random-3-s1"].startswith("unreadable")
    assert reasons["original-s0"] == "no such run"
    assert [run.id for run in experiment.runs] == ["mix_all-s0", "mix_all-s1"]
    assert experiment.arms == ("original", "mix_all", "gst-g3")


def test_a_missing_baseline_is_a_missing_run_not_an_error(tmp_path: Path):
    write_run(tmp_path, "gst-g3", 4, [evaluation(0, TWO)], TWO)
    assert read_experiment(tmp_path).missing == (Missing("mix_all-s4", "no such run"),)


def test_a_run_on_other_data_is_excluded(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, TWO)], TWO, data_digests={"a": "a", "b": "other"})
    experiment = read_experiment(tmp_path)
    assert experiment.excluded == (Excluded("gst-g3-s0", "another data digest than mix_all-s0: b"),)
    assert [run.id for run in experiment.runs] == ["mix_all-s0"]


def test_a_run_on_fewer_datasets_with_the_same_data_stays(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "individual", 0, [], {"a": 1.0})
    experiment = read_experiment(tmp_path)
    assert not experiment.excluded
    assert experiment.datasets == ("a", "b")


def test_a_run_of_other_code_is_excluded_unless_asked_for(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO, code_digest="a" * 64)
    write_run(tmp_path, "mix_all", 1, [evaluation(0, TWO)], TWO, code_digest="a" * 64)
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, TWO)], TWO, code_digest="b" * 64)
    write_run(tmp_path, "gst-g3", 1, [evaluation(0, TWO)], TWO)
    experiment = read_experiment(tmp_path)
    reason = "another code digest ({}) than mix_all-s0 (aaaaaaaaaaaa)"
    assert experiment.excluded == (
        Excluded("gst-g3-s0", reason.format("b" * 12)),
        Excluded("gst-g3-s1", reason.format("unknown")),
    )
    everything = read_experiment(tmp_path, any_code=True)
    assert not everything.excluded
    assert [run.id for run in everything.runs] == ["mix_all-s0", "mix_all-s1", "gst-g3-s0", "gst-g3-s1"]
    assert any("made by different code" in line for line in caveats(everything, judge(everything)))
    assert not any("made by different code" in line for line in caveats(experiment, judge(experiment)))


def test_older_runs_without_a_code_digest_compare_with_each_other(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, TWO)], TWO, code_digest=None)
    assert not read_experiment(tmp_path).excluded


def test_ranks_model_and_datasets_that_differ_are_said(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_run(tmp_path, "gst-g3", 0, [evaluation(0, TWO)], TWO, world_size=4, model="another/model")
    write_run(tmp_path, "individual", 0, [], {"a": 1.0})
    experiment = read_experiment(tmp_path)
    assert len(experiment.runs) == 3
    said = caveats(experiment, judge(experiment))
    assert "The runs differ in number of ranks: 2, 4." in said
    assert "The runs differ in model: another/model, runs/base/model." in said
    assert "Not every dataset is in every run of: individual. Averages leave these runs out." in said


def test_metrics_of_generated_answers_are_read_and_absent_in_older_results(tmp_path: Path):
    generated = {**score(1.0), "metrics": {"rouge_l": 0.5, "wer": None}, "generated": 7}
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], {"a": generated, "b": 1.0})
    scores = read_experiment(tmp_path).runs[0].result.scores
    assert scores["a"].generated == 7
    assert scores["a"].value("rouge_l") == 0.5
    assert math.isnan(scores["a"].value("wer"))
    assert (scores["b"].metrics, scores["b"].generated) == ({}, 0)
    assert scores["b"].value("rouge_l") is None
    assert scores["b"].value("token_accuracy") == 0.5


def test_another_recipe_within_an_arm_is_excluded_but_another_seed_is_not(tmp_path: Path):
    for seed in range(3):
        lr = {"train": {"seed": seed, "lr": 9 if seed == 2 else 1}}
        write_run(tmp_path, "mix_all", seed, [evaluation(0, TWO)], TWO, recipe=lr)
    experiment = read_experiment(tmp_path)
    assert [item.run for item in experiment.excluded] == ["mix_all-s2"]
    assert "another recipe digest" in experiment.excluded[0].reason
    assert experiment.seeds == (0, 1)


def test_skipped_examples_count_once_over_ranks_and_resumes(tmp_path: Path):
    folder = write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    bad = {"event": "bad_sample", "dataset": "a", "example": "x"}
    (folder / "events-rank1.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in (bad, bad, {**bad, "example": "y"}))
    )
    assert read_experiment(tmp_path).runs[0].skipped == {"a": 2}


def test_nan_and_null_scores_are_read_as_nan(tmp_path: Path):
    write_run(
        tmp_path, "mix_all", 0, [evaluation(0, TWO)], {"a": score(float("nan")), "b": {**score(1.0), "loss": None}}
    )
    scores = read_experiment(tmp_path).runs[0].result.scores
    assert scores["a"].loss != scores["a"].loss
    assert scores["b"].loss != scores["b"].loss


def test_nothing_finished_is_an_error_that_names_what_there_is(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [], TWO, status="running")
    with pytest.raises(ConfigError, match="no finished run") as caught:
        read_experiment(tmp_path)
    assert "mix_all-s0: not finished" in str(caught.value)


def test_a_probe_without_cost_is_an_error(tmp_path: Path):
    write_run(tmp_path, "mix_all", 0, [evaluation(0, TWO)], TWO)
    write_probe(tmp_path, steps=3)
    with pytest.raises(ConfigError, match="what it cost"):
        read_experiment(tmp_path)
