"""`examples-test.jsonl` as training writes it is what the report reads, and adds up to `result.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.eval.examples import ScoredExample, SplitResults, summarise, write_examples
from pipeline.report.examples import FILE, read_examples
from pipeline.report.runs import Run, read_run
from tests.unit.report.example import write_run


def scored(dataset: str, number: int, **more: object) -> ScoredExample:
    known = {"task": "caption", "question": "What?", "answers": (f"a dog barks {number}",), "tokens": 3 + number}
    sums = {"correct": number, "loss_sum": 0.1 + number, "exact": number == 3}
    return ScoredExample(dataset=dataset, id=f"{dataset}-{number}", **(known | sums | more))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Run, SplitResults]:
    examples = [scored("clotho", n, prediction="a dog barks 1" if n < 4 else None) for n in range(6)]
    examples += [scored("asr", n, task="transcript", prediction="a dog parks") for n in range(5)]
    results = summarise(examples, ["clotho", "asr", "empty"], {"caption": "caption", "transcript": "transcript"})
    folder = write_run(tmp_path, "mix_all", 0, [], {}, result={"datasets": json.loads(json.dumps(results.to_json()))})
    write_examples(folder / FILE, results.examples)
    run = read_run(folder)
    assert isinstance(run, Run)
    return run, results


def test_the_report_reads_what_training_writes(written: tuple[Run, SplitResults]):
    run, results = written
    held = read_examples(run)
    assert held.problem == ""
    assert sorted(held.datasets) == ["asr", "clotho"]
    assert held.datasets["clotho"].correct.tolist() == list(range(6))
    assert run.result.scores["clotho"].generated == 4
    assert run.result.scores["clotho"].metrics == results.metrics["clotho"]


def test_means_over_examples_are_told_from_other_metrics(written: tuple[Run, SplitResults]):
    run, _ = written
    held = read_examples(run)
    assert {"rouge_l", "cider_d"} <= set(held.datasets["clotho"].metrics)
    assert "bleu" in run.result.scores["clotho"].metrics
    assert "bleu" not in held.datasets["clotho"].metrics
    assert "wer" in run.result.scores["asr"].metrics
