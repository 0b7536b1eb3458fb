"""How texts are made comparable before they are compared: four rules, one a purpose, for all scripts and languages.

All begin alike: compatibility forms are unified (Unicode NFKC), case is folded, invisible formatting characters go,
and curly apostrophes become straight ones. Letters, marks and digits of every script stay as they are.

BLEU and chrF do not pass here: sacrebleu has rules of its own, which its users expect.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable

ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
CLITICS = frozenset(("n't", "'s", "'m", "'d", "'re", "'ve", "'ll"))

_APOSTROPHES = "'’‘ʼ"
_PLAIN_SIGNS = {"'": "", "#": "#", "♯": "#", "♭": "b"}
_UNSPACED_SCRIPTS = (
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip  # kana and Han: written without spaces between words


class _Table(dict[int, str]):
    """A table for `str.translate` that asks `rule` for the replacement of each character it meets first."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


def _is_gap(character: str) -> bool:
    """Whether it separates words: punctuation, spaces, control characters and halves of broken characters."""
    return unicodedata.category(character)[0] in "PZ" or unicodedata.category(character) in ("Cc", "Cs")


def _folded_character(character: str) -> str:
    if unicodedata.category(character) == "Cf":
        return ""
    return "'" if character in _APOSTROPHES else character


def _plain_character(character: str) -> str:
    if character in _PLAIN_SIGNS:
        return _PLAIN_SIGNS[character]
    return " " if _is_gap(character) or character in string.punctuation else character


def _token_character(character: str) -> str:
    if character in "'-.,":
        return character
    if _is_gap(character):
        return " "
    is_word = any(low <= ord(character) <= high for low, high in _UNSPACED_SCRIPTS)
    return f" {character} " if is_word or unicodedata.category(character)[0] == "S" else character


_FOLDED = _Table(_folded_character)
_PLAIN = _Table(_plain_character)
_TOKENS = _Table(_token_character)

_LONE_SHARP = re.compile(r"(?<![^\W\d_])#")
_CLITIC = re.compile(r"((?<=\w)n't|'(?:s|m|d|re|ve|ll))\b")
_POINT_OUTSIDE_NUMBER = re.compile(r"(?<!\d)[.,]|[.,](?!\d)")
_HYPHEN_AT_EDGE = re.compile(r"-{2,}|(?<!\S)-|-(?!\S)")
_LIST_SEPARATOR = re.compile(r"[,\n]|\band\b", re.IGNORECASE)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold().translate(_FOLDED))


def _plain_words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", _LONE_SHARP.sub(" ", _fold(text).translate(_PLAIN)))
    return plain.split()


def normalise_answer(text: str) -> str:
    """A short answer in the form in which two answers are equal or not.

    As SQuAD's evaluation does (Rajpurkar et al. 2016, `normalize_answer`): case, punctuation and the articles a, an,
    the do not count. Beside it, from VQA's evaluation (Antol et al. 2015): punctuation separates words instead of
    joining them, apostrophes apart, and zero ... ten are digits. Our own: symbols other than ASCII's stay; the sharp
    of a note stays ("C# minor" is not "C minor"); articles stay where nothing else would be left (the choice "A"), and
    so does a text of punctuation alone.
    """
    words = [NUMBER_WORDS.get(word, word) for word in _plain_words(text)]
    kept = [word for word in words if word not in ARTICLES] or words
    return " ".join(kept or _fold(text).split())


def normalise_transcript(text: str) -> str:
    """What was said, as WER and CER compare it: case and punctuation do not count; words and numbers do as written."""
    return " ".join(_plain_words(text))


def tokenize(text: str) -> list[str]:
    """The words of a caption for ROUGE-L and CIDEr-D.

    Follows the Penn Treebank tokeniser as the COCO caption evaluation uses it (lower case, punctuation left out),
    without its Java program: "don't" is "do n't", "dog's" is "dog 's", "high-pitched" and "3.5" are one token.
    Different from it: dotted abbreviations fall apart, symbols are tokens of their own, and so is every character of
    Han and kana.
    """
    text = _POINT_OUTSIDE_NUMBER.sub(" ", _fold(text).translate(_TOKENS))
    text = _CLITIC.sub(r" \1", _HYPHEN_AT_EDGE.sub(" ", text))
    tokens = (token if token in CLITICS else token.replace("'", "") for token in text.split())
    return [token for token in tokens if token]


def split_tags(text: str) -> frozenset[str]:
    """The entries of a list such as "adult speech and noise", "a, b" or "Applause; Chirp, tweet", normalised.

    A text with a semicolon is split at semicolons only, since AudioSet's labels have commas; any other at commas, line
    ends and the word "and".
    """
    parts = text.split(";") if ";" in text else _LIST_SEPARATOR.split(text)
    return frozenset(tag for tag in map(normalise_answer, parts) if tag)
