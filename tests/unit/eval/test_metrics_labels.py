from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from pipeline.errors import CorpusError
from pipeline.eval.metrics import measure
from pipeline.eval.metrics.labels import accuracy_each, macro_f1, set_f1_each
from tests.unit.eval.metrics_answers import answer, pairs

labels = st.sampled_from(["yes", "no", "low", "high"])


def test_accuracy_is_the_share_of_answers_equal_to_any_reference() -> None:
    answers = [answer("Yes.", "yes"), answer("dog", "a cat", "The Dog"), answer("dogs", "dog"), answer("", "no")]
    assert accuracy_each(answers) == [1, 1, 0, 0]
    assert measure("accuracy", answers) == 0.5


def test_an_empty_prediction_is_right_only_where_nothing_is_the_answer() -> None:
    assert accuracy_each([answer("", ""), answer("", "A"), answer("x", ""), answer(".", "")]) == [1, 0, 0, 0]


def test_macro_f1_by_hand() -> None:
    # yes: right 2, true 3, predicted 2 -> 2*2/(3+2) = 0.8; no: right 0, true 1, predicted 1 -> 0.
    # "maybe" is no class: it only misses "yes". Mean (0.8 + 0) / 2.
    answers = pairs(("yes", "yes"), ("Yes.", "yes"), ("no", "yes"), ("maybe", "no"), task="presence")
    assert macro_f1(answers) == pytest.approx(0.4)


def test_equal_words_of_two_tasks_are_two_classes() -> None:
    # pitch/high: 1 right of 1 true and 1 predicted -> 1; energy/high: 0. As one class it would be 2*1/(2+1).
    answers = [answer("high", "high", task="pitch"), answer("low", "high", task="energy")]
    assert macro_f1(answers) == 0.5


def test_of_several_references_the_class_is_the_one_that_was_predicted_or_the_first() -> None:
    # 1 counts for "street" and hits it: F1 1. 2 misses its first, "park", which 3 hits: 2*1 / (2 true + 1 predicted).
    answers = [
        answer("street", "park", "street", task="scene"),
        answer("bus", "park", "tram", task="scene"),
        answer("park", "park", task="scene"),
    ]
    assert macro_f1(answers) == pytest.approx((1 + 2 / 3) / 2)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_macro_f1_is_that_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    predicted, true = [p for p, _ in rows], [t for _, t in rows]
    expected = f1_score(true, predicted, average="macro", labels=sorted(set(true)), zero_division=0)
    assert macro_f1(pairs(*rows)) == pytest.approx(expected)


def test_set_f1_by_hand() -> None:
    answers = [
        answer("speech, music and a dog", "speech and music", task="tags"),  # 2*2 / (3+2)
        answer("Music; Speech", "speech and music", task="tags"),  # the order does not count
        answer("rain", "wind", "rain and wind", task="tags"),  # better with the second: 2*1 / (1+2)
        answer("", "wind", task="tags"),
        answer("", "", task="tags"),
    ]
    assert set_f1_each(answers) == pytest.approx([4 / 5, 1, 2 / 3, 0, 1])
    assert measure("set_f1", answers) == pytest.approx((4 / 5 + 1 + 2 / 3 + 0 + 1) / 5)


@given(st.lists(st.tuples(st.sets(labels), st.sets(labels)), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_set_f1_is_that_of_scikit_learn(rows: list[tuple[set[str], set[str]]]) -> None:
    binarise = MultiLabelBinarizer(classes=["yes", "no", "low", "high"])
    predicted, true = (binarise.fit_transform([row[side] for row in rows]) for side in (0, 1))
    expected = f1_score(true, predicted, average="samples", zero_division=1)
    texts = [(", ".join(sorted(p)), " and ".join(sorted(t))) for p, t in rows]
    assert measure("set_f1", pairs(*texts, task="tags")) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "set_f1"])
def test_nothing_to_score_is_an_error(name: str) -> None:
    with pytest.raises(CorpusError, match="no answer to score"):
        measure(name, [])
