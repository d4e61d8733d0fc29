"""Metrics of generated answers: exact match, F1 and ROUGE."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

import numpy as np

EXACT_MATCH, F1 = "exact_match", "f1"
ROUGES = ("rouge1", "rouge2", "rougeL")
METRICS = (EXACT_MATCH, F1, *ROUGES)

# Stripped from both ends of a word for F1. It counts inside a word, and "-" counts as
# the sign of a number.
_PUNCTUATION = ".,;:!?()[]\"'"

Score = Callable[[str, str], dict[str, float]]


def scorer(result_after: str | None = None) -> Score:
    """Returns a function of an answer and the wanted answer to `METRICS`, from 0 to 1.

    Exact match ignores the amount of white space. F1 compares the words as a bag, in
    lower case and without surrounding punctuation. ROUGE is the F-measure of
    rouge_score, with stemming.

    Args:
      result_after: The text before the result of an answer, such as "####". Exact match
        and F1 compare only what follows its last occurrence. A wanted answer without it
        is compared whole; an answer without it is wrong if the wanted one has it.

    Raises:
      ModuleNotFoundError: rouge_score, of the extra "eval", is not installed.
    """
    # In an extra: only fine-tuning needs it.
    from rouge_score import rouge_scorer

    rouge = rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=True)

    def score(answer: str, wanted: str) -> dict[str, float]:
        results = _results(answer, wanted, result_after)
        overlaps = rouge.score(wanted, answer)
        return {
            EXACT_MATCH: exact_match(*results),
            F1: f1(*results),
            **{name: overlaps[name].fmeasure for name in ROUGES},
        }

    return score


def exact_match(answer: str, wanted: str) -> float:
    """Returns 1 if the texts are equal up to the amount of white space, else 0."""
    return float(answer.split() == wanted.split())


def f1(answer: str, wanted: str) -> float:
    """Returns the F1 of the words: the harmonic mean of precision and recall."""
    found, needed = _words(answer), _words(wanted)
    if not found or not needed:
        return float(found == needed)
    common = (collections.Counter(found) & collections.Counter(needed)).total()
    return 2 * common / (len(found) + len(needed))


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each of `METRICS` over the answers."""
    return {name: float(np.mean([x[name] for x in scores])) for name in METRICS}


def _words(text: str) -> list[str]:
    words = (word.strip(_PUNCTUATION) for word in text.lower().split())
    return [word for word in words if word]


def _results(answer: str, wanted: str, marker: str | None) -> tuple[str, str]:
    """Returns the parts of an answer and of the wanted answer that are compared."""
    if marker is None or marker not in wanted:
        return answer, wanted
    _, found, result = answer.rpartition(marker)
    return result if found else "", wanted.rpartition(marker)[2]
