"""Results example by example: their sums are the scores, their file gives them back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pipeline.config.schema import ModelConfig
from pipeline.data.batches import make_micro_batch
from pipeline.dist import SingleProcess
from pipeline.errors import CheckpointError
from pipeline.eval import score, score_examples
from pipeline.eval.examples import (
    ScoredExample,
    add_up,
    keep_examples,
    kept_examples,
    read_examples,
    summarise,
    with_answers,
    write_examples,
)
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_base_model, load_processor
from pipeline.types import DatasetScore, Example
from tests.conftest import TONE_CORPORA

CPU = torch.device("cpu")
NAMES = sorted(TONE_CORPORA)


def scored(number: int, dataset: str = "a", **changes: object) -> ScoredExample:
    plain = ScoredExample(dataset, f"e{number}", "emotion", "How?", ("sad", "blue"), 3, number % 4, 0.1 * number, False)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def held_out(tone_shards: Path) -> list[Example]:
    from pipeline.data.index import ShardIndex

    index = ShardIndex(tone_shards)
    return [index.read(name, "test", i) for name in NAMES for i in range(index.n_examples(name, "test"))]


def test_rows_add_up_to_the_scores(tiny_model: Path, held_out: list[Example]) -> None:
    model = load_base_model(ModelConfig(path=str(tiny_model))).train()
    encode = AnswerEncoder(load_processor(str(tiny_model)))
    batches = [
        make_micro_batch([each for each in held_out if each.dataset == name][start : start + 4], encode)
        for name in NAMES[1:]
        for start in (0, 4)
    ]
    filler = make_micro_batch(held_out[:1], encode, counted=False)
    whole = score(model, [*batches, filler], NAMES, SingleProcess(), CPU)
    examples = score_examples(model, [filler, *batches[::-1]], SingleProcess(), CPU)
    assert [each.key for each in examples] == sorted((e.dataset, e.id) for e in held_out if e.dataset != NAMES[0])
    sums = add_up(examples, NAMES)
    assert sums[NAMES[0]] == DatasetScore(0.0, 0, 0, 0, 0) == whole[NAMES[0]]
    for name in NAMES:
        assert replace(sums[name], loss_sum=0) == replace(whole[name], loss_sum=0)
        assert sums[name].loss_sum == pytest.approx(whole[name].loss_sum, rel=1e-5)
    assert model.training
    asked = {(each.dataset, each.id): each for each in held_out}
    for each in examples:
        source = asked[each.key]
        assert (each.task, each.question, each.answers) == (source.task, source.question, source.answers)
        assert each.exact == (each.correct == each.tokens) and each.tokens > 1


def test_metrics_are_of_the_answers_given_and_counted(tmp_path: Path) -> None:
    examples = [scored(number, "b") for number in range(3)] + [scored(number) for number in range(4)]
    answers = {("a", "e0"): "Sad.", ("a", "e1"): "angry", ("a", "e3"): "blue"}
    results = summarise(with_answers(examples, answers), ["a", "b", "c"], {})
    assert [each.key for each in results.examples] == [("a", f"e{i}") for i in range(4)] + [
        ("b", f"e{i}") for i in range(3)
    ]
    told = results.to_json()
    assert [(row["examples"], row["generated"]) for row in told.values()] == [(4, 3), (3, 0), (0, 0)]
    assert told["a"]["metrics"]["accuracy"] == pytest.approx(2 / 3) and told["b"]["metrics"] == {}
    by_id = {each.id: each for each in results.examples if each.dataset == "a"}
    assert by_id["e2"].prediction is by_id["e2"].metrics is None
    assert [by_id[name].metrics["accuracy"] for name in ("e0", "e1", "e3")] == [1, 0, 1]  # type: ignore[index]
    assert "3 answered freely: accuracy 0.6667" in results.line()


def test_an_empty_answer_is_an_answer() -> None:
    results = summarise(with_answers([scored(0)], {("a", "e0"): ""}), ["a"], {})
    assert results.examples[0].metrics == {"accuracy": 0.0} and results.to_json()["a"]["generated"] == 1


def test_the_kind_of_answer_is_found_from_the_whole_split_and_can_be_set() -> None:
    """Three answers that occur often make the task closed; the two that were answered would not show it."""
    examples = [scored(number, task="qa", answers=(("yes", "no")[number % 2],)) for number in range(8)]
    answers = {("a", "e0"): "yes", ("a", "e1"): "yes"}
    found = summarise(with_answers(examples, answers), ["a"], {}).metrics["a"]
    assert "macro_f1" in found and "bleu" not in found
    told = summarise(with_answers(examples, answers), ["a"], {"qa": "transcript"}).metrics["a"]
    assert set(told) == {"wer", "cer"} and told["wer"] == pytest.approx(1 / 2)


def test_the_line_weighs_datasets_by_their_examples() -> None:
    examples = [scored(0, "a", correct=3), *(scored(number, "b", correct=0) for number in range(3))]
    assert summarise(examples, ["a", "b"], {}).line() == "test: weighted token accuracy 0.2500 over 4 examples"


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    odd = "line\u2028and\x85next\n\ud83d \u72ac"
    examples = [scored(0, question=odd, loss_sum=1 / 3), scored(1, prediction=odd, metrics={"wer": 0.1})]
    file = tmp_path / "run" / "examples-test.jsonl"
    write_examples(file, examples)
    assert read_examples(file) == examples
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(lines[0]) == [
        "dataset", "id", "task", "question", "answers", "tokens", "correct", "loss_sum", "exact", "prediction",
        "metrics",
    ]  # fmt: skip
    assert lines[1] == {**asdict(examples[1]), "answers": ["sad", "blue"]}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_results_of_models_that_are_gone_come_back(tmp_path: Path) -> None:
    examples = [scored(number, name, prediction=name) for name in "ab" for number in range(5)]
    examples[7] = replace(examples[7], loss_sum=float("nan"))
    keep_examples(tmp_path / "examples", examples)
    scores = add_up(examples, ["a", "b"])
    restored = {name: DatasetScore(**json.loads(json.dumps(asdict(score)))) for name, score in scores.items()}
    assert repr(kept_examples(tmp_path / "examples", restored)) == repr(examples)
    assert kept_examples(tmp_path / "examples", {"a": restored["a"]}) == examples[:5]
    assert kept_examples(tmp_path / "examples", {"c": DatasetScore(0.0, 0, 0, 0, 0)}) == []


@pytest.mark.parametrize("content", [None, b"", b'{"dataset": "a"}\n', b"{torn"])
def test_results_that_do_not_belong_to_the_score_are_refused(tmp_path: Path, content: bytes | None) -> None:
    examples = [scored(number) for number in range(5)]
    scores = add_up(examples, ["a"])
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        kept_examples(tmp_path, scores)
    assert caught.value.where["file"] == tmp_path / "a.jsonl" and "--resume never" in str(caught.value)
    keep_examples(tmp_path, [*examples[:4], replace(examples[4], loss_sum=0.5)])
    with pytest.raises(CheckpointError, match="add up"):
        kept_examples(tmp_path, scores)
