from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, CorpusError
from pipeline.eval.metrics import METRICS, Answer, measure, score_answers
from pipeline.eval.metrics.kinds import TASK_KINDS
from tests.unit.eval.metrics_answers import answer, pairs

texts = st.one_of(st.text(max_size=30), st.sampled_from(["yes", "No.", "a dog, rain and wind", "a man speaks", ""]))
any_answer = st.builds(
    Answer,
    st.text(max_size=3),
    st.sampled_from(["presence", "tags", "transcript", "caption", "qa_open", "qa"]),
    texts,
    st.lists(texts, min_size=1, max_size=3).map(tuple),
)


def test_each_metric_is_over_the_answers_whose_kind_it_fits() -> None:
    answers = [
        answer("happy", "happy", task="emotion"),
        answer("hello word", "hello world", task="transcript"),
        answer("rain and wind", "wind and rain", task="tags"),
        answer("a dog barks at night", "a dog barks at night"),
        answer("a horn sounds now and then", "a car passes"),
        answer("because it rains", "because it rains", task="qa_open"),
    ]
    scored = score_answers(answers)
    assert scored.kinds == {
        "caption": "caption", "emotion": "closed", "qa_open": "open", "tags": "tags", "transcript": "transcript",
    }  # fmt: skip
    assert scored.corpus.keys() == METRICS.keys()
    assert scored.corpus["accuracy"] == pytest.approx(2 / 3)  # emotion, tags (another order is another text), qa_open
    assert scored.corpus["macro_f1"] == scored.corpus["set_f1"] == 1
    assert scored.corpus["wer"] == 1 / 2
    assert scored.corpus["cider_d"] == measure("cider_d", answers[3:5])
    assert scored.corpus["bleu"] == measure("bleu", answers[3:])
    assert [sorted(values) for values in scored.examples] == [
        ["accuracy"],
        ["cer", "wer"],
        ["accuracy", "set_f1"],
        ["chrf", "cider_d", "rouge_l"],
        ["chrf", "cider_d", "rouge_l"],
        ["accuracy", "chrf", "rouge_l"],
    ]
    assert scored.examples[0] == {"accuracy": 1.0}
    assert scored.examples[3]["rouge_l"] == 1.0


def test_overrides_decide_and_undeclared_tasks_are_judged_by_their_references() -> None:
    answers = pairs(("yes", "yes"), ("no", "no"), ("yes", "no"), ("no", "no"), ("yes", "yes"), ("a", "yes"), task="qa")
    assert score_answers(answers).kinds == {"qa": "closed"}
    assert score_answers(answers).corpus.keys() == {"accuracy", "macro_f1"}
    assert score_answers(answers, {"qa": "transcript"}).corpus.keys() == {"wer", "cer"}
    with pytest.raises(ConfigError, match="no such kind"):
        score_answers(answers, {"elsewhere": "close"})


def test_nothing_generated_is_nothing_scored() -> None:
    assert score_answers([]).corpus == {}
    assert score_answers([]).examples == []


def test_cider_d_is_left_out_for_a_single_caption() -> None:
    scored = score_answers([answer("a dog barks", "a dog barks")])
    assert scored.corpus == pytest.approx({"bleu": 1, "chrf": 1, "rouge_l": 1})
    assert scored.examples[0].keys() == {"chrf", "rouge_l"}


def test_an_answer_without_reference_is_refused() -> None:
    with pytest.raises(CorpusError, match="without any reference"):
        Answer("q1", "caption", "x", ())


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="rouge_l"):
        measure("rougel", [])


@given(st.lists(any_answer, max_size=12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_values_are_bounded_finite_and_independent_of_the_order(answers: list[Answer], seed: int) -> None:
    scored = score_answers(answers)
    order = Random(seed).sample(range(len(answers)), len(answers))
    shuffled = score_answers([answers[index] for index in order])
    assert shuffled.corpus == scored.corpus
    assert shuffled.examples == [scored.examples[index] for index in order]
    for values in [scored.corpus, *scored.examples]:
        for name, value in values.items():
            most = {"wer": math.inf, "cer": math.inf, "cider_d": 10}.get(name, 1)
            assert math.isfinite(value)
            assert 0 <= value <= most + 1e-9


@given(st.lists(st.integers(4, 12), min_size=2, max_size=8), st.sampled_from(sorted(TASK_KINDS)))
@settings(max_examples=60, deadline=None)
def test_right_answers_have_the_best_value_of_every_metric(lengths: list[int], task: str) -> None:
    # Every answer has words of its own, so that all of them weigh something in CIDEr-D.
    answers = []
    for number, length in enumerate(lengths):
        text = " ".join(f"w{number}n{index}" for index in range(length))
        answers.append(Answer(str(number), task, text, (text,)))
    scored = score_answers(answers)
    best = {"wer": 0.0, "cer": 0.0, "cider_d": 10.0}
    assert scored.corpus == pytest.approx({name: best.get(name, 1.0) for name in scored.corpus})
    assert scored.corpus


@pytest.mark.parametrize("task", ["presence", "tags", "transcript", "caption", "qa_open"])
def test_very_long_and_broken_texts_are_scored(task: str) -> None:
    long = "word again " * 10_000
    answers = [
        answer(long, "a short reference", task=task),
        answer("short", long, task=task),
        answer("\ud800 half \x00 \u200d", "\ufffd", task=task),
        answer("", " ", task=task),
    ]
    scored = score_answers(answers)
    assert all(math.isfinite(value) for values in [scored.corpus, *scored.examples] for value in values.values())
