from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.eval.metrics.edits import cer, cer_each, wer, wer_each
from tests.unit.eval.metrics_answers import answer, pairs

sentences = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat"]), min_size=1, max_size=8).map(" ".join)


def test_word_errors_by_hand() -> None:
    # 1: sat -> sit, and down put in: 2 edits of 3 words. 2: world left out: 1 of 2. Together 3 / 5, not the mean 7/12.
    answers = pairs(("The cat sit, down!", "the cat sat"), ("hello", "Hello world."))
    assert wer_each(answers) == pytest.approx([2 / 3, 1 / 2])
    assert wer(answers) == pytest.approx(3 / 5)


def test_character_errors_by_hand() -> None:
    # 1: a -> u: 1 of 3. 2: "a b" has 3 characters, of which the space is left out.
    answers = pairs(("cut", "Cat."), ("ab", "a b"))
    assert cer_each(answers) == pytest.approx([1 / 3, 1 / 3])
    assert cer(answers) == pytest.approx(2 / 6)


def test_of_several_references_the_one_with_the_fewest_edits_counts_and_the_longest_of_these() -> None:
    # One edit from "a b c" (3 words) and from "a x" (2 words); two from "z z".
    assert wer([answer("a b", "z z", "a x", "a b c")]) == pytest.approx(1 / 3)
    assert wer([answer("a b", "a x y z", "a b")]) == 0


def test_an_error_rate_can_exceed_one_and_is_finite_without_any_reference_word() -> None:
    assert wer([answer("a b c", "x")]) == 3
    assert wer([answer("a b c", "")]) == 3
    assert wer([answer("", "")]) == cer([answer("", "...")]) == 0
    assert wer([answer("", "a b")]) == cer([answer("", "ab")]) == 1


def test_scripts_without_spaces_have_a_character_error_rate() -> None:
    assert cer([answer("犬が鳴く", "犬が吠える")]) == pytest.approx(3 / 5)  # 2 replaced, 1 left out


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=10))
@settings(max_examples=50, deadline=None)
def test_rates_are_jiwers_over_the_whole_set(rows: list[tuple[str, str]]) -> None:
    predicted, true = [p for p, _ in rows], [t for _, t in rows]
    assert wer(pairs(*rows)) == pytest.approx(jiwer.wer(true, predicted))
    assert cer(pairs(*rows)) == pytest.approx(jiwer.cer(true, predicted))


@pytest.mark.parametrize("metric", [wer, cer])
def test_nothing_to_score_is_an_error(metric: object) -> None:
    with pytest.raises(CorpusError, match="no answer to score"):
        metric([])  # type: ignore[operator]
