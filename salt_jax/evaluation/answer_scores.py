"""How near an answer is to the one that was wanted."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

import numpy as np

EXACT_MATCH, F1 = "exact_match", "f1"
ROUGES = ("rouge1", "rouge2", "rougeL")
METRICS = (EXACT_MATCH, F1, *ROUGES)

# Which says nothing where it begins or ends a word; inside one, or as a sign before a
# number, it does.
_PUNCTUATION = ".,;:!?()[]\"'"

Score = Callable[[str, str], dict[str, float]]


def scorer(result_after: str | None = None) -> Score:
    """Returns a function of an answer and the wanted one: `METRICS`, from 0 to 1.

    Exact match compares texts but for the amount of white space. F1 compares the words
    as a bag, in lower case and without punctuation around them. ROUGE is the F-measure
    of rouge_score, with stemming.

    Args:
      result_after: What is before the result of an answer. Exact match and F1 compare
        only what follows it where it stands last; a wanted answer that lacks it is
        compared whole, and an answer that lacks it where it is wanted is wrong.

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
    """Returns 1 if the texts are equal but for the amount of white space, or 0."""
    return float(answer.split() == wanted.split())


def f1(answer: str, wanted: str) -> float:
    """Returns the harmonic mean of precision and recall of the words."""
    found, needed = _words(answer), _words(wanted)
    if not found or not needed:
        return float(found == needed)
    common = (collections.Counter(found) & collections.Counter(needed)).total()
    return 2 * common / (len(found) + len(needed))


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each of `METRICS`."""
    return {name: float(np.mean([x[name] for x in scores])) for name in METRICS}


def _words(text: str) -> list[str]:
    words = (word.strip(_PUNCTUATION) for word in text.lower().split())
    return [word for word in words if word]


def _results(answer: str, wanted: str, marker: str | None) -> tuple[str, str]:
    """Returns what is compared of an answer and of the wanted one."""
    if marker is None or marker not in wanted:
        return answer, wanted
    _, found, result = answer.rpartition(marker)
    return result if found else "", wanted.rpartition(marker)[2]
