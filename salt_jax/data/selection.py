"""Which sequences to keep, given their scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from salt_jax.data import permutation
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.scores import Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighestScores:
    """The sequences that the scorer finds most worth learning.

    Of equal scores the one with the smaller id is kept, so that the number kept is
    `round(keep_fraction * scored)`.
    """

    scores: str  # Where `score` wrote them.
    keep_fraction: float  # Of the sequences that were scored.
    score: str = "median_k10_zeros"  # A column of the scores.

    def __post_init__(self):
        _check_fraction(self.keep_fraction)

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the ids to keep, int64, in increasing order.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: they are of other data, or not complete; there is no such column;
            nothing would be kept.
        """
        scores = Scores.open(self.scores, dataset)
        num_kept = _num_kept(self.keep_fraction, len(scores))
        descending = np.argsort(-scores.column(self.score), kind="stable")
        return np.sort(descending[:num_kept]).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSubset:
    """As many of the scored sequences as `HighestScores` keeps, whatever they score."""

    scores: str  # Read for how many were scored.
    keep_fraction: float
    seed: int = 0

    def __post_init__(self):
        _check_fraction(self.keep_fraction)

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the ids to keep, int64, in increasing order.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: they are of other data, or not complete; nothing would be kept.
        """
        scores = Scores.open(self.scores, dataset)
        num_kept = _num_kept(self.keep_fraction, len(scores))
        ids = permutation.shuffled(
            np.arange(num_kept), size=len(scores), seed=self.seed
        )
        return np.sort(ids)


def _check_fraction(keep_fraction: float) -> None:
    if not 0.0 < keep_fraction <= 1.0:
        raise ValueError(f"keep_fraction must be in (0, 1], got {keep_fraction}.")


def _num_kept(keep_fraction: float, num_scored: int) -> int:
    num_kept = round(keep_fraction * num_scored)
    if num_kept == 0:
        raise ValueError(
            f"keep_fraction={keep_fraction} of {num_scored} scored sequences is none: "
            "raise it, or score more."
        )
    return num_kept
