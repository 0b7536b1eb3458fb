"""CIDEr-D: how like the references a caption is, words that say much counting more.

Own code: `aac-metrics`, the only kept package that has it without Java, needs an old transformers and CLAP models, and
`pycocoevalcap` (last version 2020) carries 100 MB of Java programs. Both give the same values (the tests have them).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.eval.metrics.answer import Answer, average
from pipeline.eval.metrics.text import tokenize

MAX_N = 4
SIGMA = 6.0
SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    """A text as tf-idf weights of its n-grams, apart for each n, with their Euclidean norms."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    n_tokens: int


def cider_d_each(answers: Sequence[Answer]) -> list[float]:
    """CIDEr-D of each answer, 0..10; the mean over answers is the value of the set.

    Vedantam, Lawrence Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015), equations
    1 and 3 with the changes of section 6. For n = 1..4, with g(t) the vector of term frequency times
    log(N / document frequency) over the n-grams of text t, candidate c and references s_1 .. s_m:

        CIDEr-D_n(c, S) = 10 / m * sum_j exp(-(l(c) - l(s_j))^2 / (2 sigma^2))
                                   * min(g(c), g(s_j)) . g(s_j) / (|g(c)| |g(s_j)|)

    and CIDEr-D is the mean over n. l is the number of tokens, sigma 6; N is the number of answers, and a document is
    all references of one of them. So a value belongs to the set in which it was computed, and a set of one answer has
    0 throughout. A caption of fewer than four tokens cannot reach 10, as it has no 4-grams. As in the authors' program,
    an n-gram that no reference has weighs log(N), and words are not stemmed.
    """
    references = [[_ngrams(text) for text in answer.references] for answer in answers]
    frequency: Counter[Ngram] = Counter()
    for counts in references:
        frequency.update(set().union(*counts))
    rarity = _Rarity(len(answers), frequency)
    values = []
    for answer, counts in zip(answers, references, strict=True):
        candidate = _vector(_ngrams(answer.prediction), rarity)
        values.append(SCALE * average(_similarity(candidate, _vector(one, rarity)) for one in counts))
    return values


class _Rarity(dict[Ngram, float]):
    """log(N / document frequency) of every n-gram; log(N) of an unknown one."""

    def __init__(self, n_documents: int, frequency: Mapping[Ngram, int]) -> None:
        super().__init__({ngram: math.log(n_documents / n) for ngram, n in frequency.items()})
        self._unknown = math.log(max(n_documents, 1))

    def __missing__(self, ngram: Ngram) -> float:
        return self._unknown


def _ngrams(text: str) -> Counter[Ngram]:
    """How often each n-gram of 1 to 4 tokens occurs."""
    tokens = tokenize(text)
    counts: Counter[Ngram] = Counter()
    for n in range(1, MAX_N + 1):
        counts.update(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    return counts


def _vector(counts: Counter[Ngram], rarity: _Rarity) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(MAX_N))
    n_tokens = 0
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * rarity[ngram]
        n_tokens += count if len(ngram) == 1 else 0
    norms = tuple(math.sqrt(math.fsum(weight**2 for weight in part.values())) for part in weights)
    return _Vector(weights, norms, n_tokens)


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """The mean over n of the clipped cosines, less for a difference in length; 0..1."""
    penalty = math.exp(-((candidate.n_tokens - reference.n_tokens) ** 2) / (2 * SIGMA**2))
    parts = zip(candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True)
    return penalty * average(_clipped_cosine(c, r, c_norm * r_norm) for c, r, c_norm, r_norm in parts)


def _clipped_cosine(candidate: dict[Ngram, float], reference: dict[Ngram, float], norms: float) -> float:
    """The cosine, but no n-gram of the candidate counts more often than the reference has it."""
    if norms == 0:
        return 0.0
    shared = candidate.keys() & reference.keys()
    return math.fsum(min(candidate[ngram], reference[ngram]) * reference[ngram] for ngram in shared) / norms
