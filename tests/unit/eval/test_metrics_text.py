from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.eval.metrics.text import normalise_answer, normalise_transcript, split_tags, tokenize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Yes. ", "yes"),
        ("**Happy**", "happy"),
        ("A dog, and the  cat!", "dog and cat"),
        ("residential_area", "residential area"),
        ("low-pitched", "low pitched"),
        ("It’s 'fine'", "its fine"),
        ("Two dogs", "2 dogs"),
        ("ＡＢＣ １２", "abc 12"),
        ("Straße", "strasse"),
        ("हिन्दी में।", "हिन्दी में"),
        ("صوت، كلب؟", "صوت كلب"),
        ("犬が吠える。", "犬が吠える"),
        ("C♯ minor", "c# minor"),
        ("#1", "1"),
        ("(A)", "a"),
        ("...", "..."),
        ("", ""),
        (" \n", ""),
    ],
)
def test_answers_are_equal_whatever_case_punctuation_articles_and_script(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


def test_what_tells_answers_apart_stays() -> None:
    for one, other in [("C# minor", "C minor"), ("A", "the"), ("A", ""), ("कि", "की"), ("café", "cafe"), ("1", "11")]:
        assert normalise_answer(one) != normalise_answer(other)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)
    assert normalise_transcript(normalise_transcript(text)) == normalise_transcript(text)


@given(st.text().filter(lambda text: text.isprintable() and text.strip()))
@settings(max_examples=100, deadline=None)
def test_no_printed_answer_becomes_empty(text: str) -> None:
    assert normalise_answer(text)


def test_transcripts_keep_articles_and_number_words() -> None:
    assert normalise_transcript("A man, the two dogs. Don't!") == "a man the two dogs dont"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog's high-pitched bark; it doesn't stop.", "a dog 's high-pitched bark it does n't stop"),
        ("'Quoted' (words) -- and 3.5 or 1,000", "quoted words and 3.5 or 1,000"),
        ("we’re here,there - now", "we 're here there now"),
        ("犬がdog", "犬 が dog"),
        ("50 € + 1", "50 € + 1"),
        ("हिन्दी में", "हिन्दी में"),
        ("...", ""),
    ],
)
def test_tokens_are_those_of_the_treebank_without_punctuation(text: str, expected: str) -> None:
    assert tokenize(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adult female speech and broadband noise", {"adult female speech", "broadband noise"}),
        ("a horn, B, and the c", {"horn", "b", "c"}),
        ("Applause; Chirp, tweet; Sand and band", {"applause", "chirp tweet", "sand and band"}),
        ("sand\nband", {"sand", "band"}),
        ("dog, Dog", {"dog"}),
        (" ; ", set()),
    ],
)
def test_lists_are_split_at_semicolons_or_else_at_commas_and_and(text: str, expected: set[str]) -> None:
    assert split_tags(text) == expected
