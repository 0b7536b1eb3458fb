from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from pipeline.errors import CorpusError
from pipeline.eval.metrics import measure
from pipeline.eval.metrics.overlap import bleu, chrf, chrf_each, rouge_l_each
from pipeline.eval.metrics.text import tokenize
from tests.unit.eval.metrics_answers import answer, pairs

words = st.sampled_from(["a", "dog's", "bark", "doesn't", "fade;", "rain,", "the", "high-pitched", "wind", "3.5", "dB"])
sentences = st.lists(words, max_size=12).map(" ".join)


class OurTokens:
    """rouge-score's tokenizer protocol."""

    def tokenize(self, text: str) -> list[str]:
        return tokenize(text)


def test_bleu_by_hand() -> None:
    # n-grams found: 5 of 6, 3 of 5, 1 of 4, 0 of 3, the last smoothed to (1/2) / 3. Equal lengths: no penalty.
    answers = [answer("The cat sat on the mat", "the cat is on the mat")]
    assert bleu(answers) == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** (1 / 4))


def test_bleu_is_of_the_set_and_not_the_mean() -> None:
    # Together: 5 of 6 words, 3 of 4 pairs, 2 of 2 triples, 1 of 1 quadruple.
    assert bleu(pairs(("p q r s", "p q r s"), ("x y", "x z"))) == pytest.approx((5 / 6 * 3 / 4) ** (1 / 4))


def test_answers_with_few_words_and_unequally_many_references_can_be_perfect() -> None:
    answers = [answer("two dogs bark", "rain", "wind blows", "two dogs bark"), answer("a horn", "a horn")]
    assert bleu(answers) == pytest.approx(1)
    assert chrf(answers) == pytest.approx(1)
    # The first answer is worse with fewer references: its third one is seen.
    assert bleu([answer("two dogs bark", "rain", "wind blows"), answers[1]]) < 0.6


def test_the_brevity_penalty_takes_the_reference_of_the_nearest_length() -> None:
    # 4 words, all right in n-grams of 1..4; the references have 5 and 12: exp(1 - 5/4).
    answers = [answer("p q r s", "p q r s t", "a b c d e f g h i j k l")]
    assert bleu(answers) == pytest.approx(2.718281828 ** (1 - 5 / 4))


def test_chrf_by_hand() -> None:
    # n=1: P 1, R 2/3; n=2: P 1, R 1/2; no 3-gram predicted. Means P 1, R 7/12; F2 = 5 P R / (4 P + R) = 7/11.
    assert chrf([answer("AB", "abc")]) == pytest.approx(7 / 11)
    assert chrf_each([answer("ab", "zzzz", "abc"), answer("", "abc")]) == pytest.approx([7 / 11, 0])


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence "the cat on mat": 4 of 5 and 6 words; 2*4 / (5+6). "mat the" has 1 in order.
    answers = [
        answer("The cat sat on mat.", "the cat is on the mat"),
        answer("mat the", "the mat"),
        answer("the mat", "no", "the mat"),
        answer("", "the mat"),
        answer("", ""),
    ]
    assert rouge_l_each(answers) == pytest.approx([8 / 11, 2 * 1 / 4, 1, 0, 1])
    assert measure("rouge_l", answers) == pytest.approx((8 / 11 + 1 / 2 + 1 + 0 + 1) / 5)


@given(sentences, st.lists(sentences, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_rouge_l_is_that_of_rouge_score(prediction: str, references: list[str]) -> None:
    if not tokenize(prediction):
        return  # rouge-score gives 0 to two empty texts
    scorer = RougeScorer(["rougeL"], tokenizer=OurTokens())
    expected = scorer.score_multi(references, prediction)["rougeL"].fmeasure
    assert rouge_l_each([answer(prediction, *references)])[0] == pytest.approx(expected)


def test_blank_references_neither_help_nor_harm() -> None:
    plain, with_blank = answer("a dog barks now", "a dog barks"), answer("a dog barks now", "", "a dog barks", " ")
    for name in ("bleu", "chrf", "rouge_l"):
        assert measure(name, [plain]) == measure(name, [with_blank])


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge_l", "cider_d"])
def test_nothing_to_score_is_an_error(name: str) -> None:
    with pytest.raises(CorpusError, match="no answer to score"):
        measure(name, [])
