from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.eval.metrics import Answer, measure
from pipeline.eval.metrics.cider import cider_d_each
from tests.unit.eval.metrics_answers import answer, pairs

sentences = st.lists(st.sampled_from("pqrs"), max_size=9).map(" ".join)
answers_of_sentences = st.builds(
    Answer, st.just("a"), st.just("caption"), sentences, st.lists(sentences, min_size=1, max_size=3).map(tuple)
)


def test_every_n_counts_a_quarter() -> None:
    # All n-grams weigh log 2. "dog barks" is right in words and pairs, and has no longer n-grams: 10 * (1 + 1) / 4.
    assert cider_d_each(pairs(("dog barks", "dog barks"), ("x", "rain falls"))) == pytest.approx([5, 0])


def test_repetition_is_clipped_and_length_costs() -> None:
    # In units of log 2. Words: (2, 1) with (1, 1), clipped to (1, 1): 2 / (sqrt 5 sqrt 2). Pairs: (1, 1) with (0, 1):
    # 1 / (sqrt 2 * 1). One word more than the reference: exp(-1 / (2 * 36)).
    expected = 10 / 4 * (2 / math.sqrt(10) + 1 / math.sqrt(2)) * math.exp(-1 / 72)
    assert cider_d_each(pairs(("dog dog barks", "dog barks"), ("x", "rain falls")))[0] == pytest.approx(expected)


def test_words_of_all_documents_weigh_nothing_and_references_are_averaged() -> None:
    # "rain" is in a reference of both answers: log(2/2) = 0. Words of 1: only dog weighs, found: 1 with the first
    # reference, 0 with the second. Pairs: "dog rain" is the first reference's only one: 1. Mean of 10 * 2/4 and 0.
    answers = [answer("dog rain", "dog rain", "cow rain"), answer("rain", "rain hums")]
    assert cider_d_each(answers) == pytest.approx([2.5, 0])


def test_values_are_those_of_both_public_programs() -> None:
    # pycocoevalcap 1.2 (`CiderScorer`) and aac-metrics 0.6.0 (`cider_d`), both fed with our tokens, agree on these.
    answers = [
        answer(
            "A dog barks while rain falls on a tin roof.",
            "A dog is barking as the rain falls on a roof.",
            "Rain falls and a dog barks.",
            "Heavy rain on a tin roof, a dog's bark.",
        ),
        answer(
            "A man speaks and a door slams shut",
            "A man is speaking and then a door slams.",
            "Someone doesn't stop talking; a door slams shut",
        ),
        answer(
            "Birds birds birds birds chirp",
            "Birds chirp in a high-pitched chorus",
            "Several birds are chirping loudly.",
            "birds birds chirp",
        ),
    ]
    assert cider_d_each(answers) == pytest.approx([3.2583482467344775, 3.1040209052339494, 1.5174873003942155])


def dense_cider_d(answers: list[Answer]) -> list[float]:
    """The formula once more, with dense vectors over the whole vocabulary; texts are words between spaces."""

    def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    def one(position: int, reference: str, n: int) -> float:
        prediction = answers[position].prediction
        everything = [text for a in answers for text in (a.prediction, *a.references)]
        vocabulary = sorted({gram for text in everything for gram in ngrams(text, n)})
        documents = [{gram for text in a.references for gram in ngrams(text, n)} for a in answers]
        idf = np.array([math.log(len(answers) / max(1, sum(g in d for d in documents))) for g in vocabulary])
        c, s = (np.array([ngrams(text, n).count(g) for g in vocabulary]) * idf for text in (prediction, reference))
        norm = np.linalg.norm(c) * np.linalg.norm(s)
        difference = len(prediction.split()) - len(reference.split())
        return 0.0 if norm == 0 else math.exp(-(difference**2) / 72) * float(np.minimum(c, s) @ s / norm)

    return [
        10 * float(np.mean([one(position, reference, n) for reference in a.references for n in (1, 2, 3, 4)]))
        for position, a in enumerate(answers)
    ]


@given(st.lists(answers_of_sentences, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_plain_formula(answers: list[Answer]) -> None:
    assert cider_d_each(answers) == pytest.approx(dense_cider_d(answers), abs=1e-9)
    assert all(0 <= value <= 10 + 1e-9 for value in cider_d_each(answers))


def test_a_single_answer_scores_zero_as_no_word_tells_anything() -> None:
    assert measure("cider_d", [answer("a dog barks loudly", "a dog barks loudly")]) == 0
