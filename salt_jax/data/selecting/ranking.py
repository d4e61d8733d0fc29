"""Rankings of sequences, as values.

A ranking gives each scored sequence a worth, and `Selection` keeps the sequences with
the highest. Any frozen dataclass with the method of `Ranking` can be used.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from salt_jax.data import permutation
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.scores import Scores

BANDS = ("low", "mid", "high")
_BLOCK = 1 << 18  # Numbers shuffled at a time; needs 20 MiB.


class Ranking(Protocol):
    """Gives each sequence a worth."""

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the worth of each sequence, by id; the highest are kept.

        Args:
          scores: The scores of `dataset`.
          dataset: The sequences.

        Returns:
          Real numbers [N], with N at most `len(scores)`. Ids from N on are not kept.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighestScores:
    """Ranks by a score, as SALT_DS does."""

    score: str  # A column of the scores, such as "median_k10_zeros".

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the column, float32 [N].

        Raises:
          ValueError: there is no such column; a shard of it is damaged.
        """
        return scored_by(scores, self.score)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """A random selection. With one seed, a larger selection contains a smaller one."""

    seed: int

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns a permutation of 0 to N - 1, int32 [N]."""
        size = len(scores)
        places = np.empty(size, np.int32)
        for begin in range(0, size, _BLOCK):
            numbers = np.arange(begin, min(begin + _BLOCK, size))
            places[numbers] = permutation.shuffled(numbers, size=size, seed=self.seed)
        return places


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityBand:
    """Prefers sequences with a low, medium or high mean loss of the scorer.

    "mid" prefers the median over all scored sequences, whatever their domains. Selected
    thirds of "low", "mid" and "high" are disjoint. Of equal losses, the smaller id
    counts as the lower.
    """

    band: str  # One of `BANDS`.

    def __post_init__(self):
        if self.band not in BANDS:
            raise ValueError(f"band must be one of {BANDS}, got {self.band!r}.")

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns each sequence's rank from the outside of the band, int32 [N].

        Raises:
          ValueError: a shard of the scores is damaged.
        """
        order = np.argsort(scores.column("mean_loss"), kind="stable")
        size = len(order)
        ranks = np.empty(size, np.int32)
        ranks[order] = np.arange(size, dtype=np.int32)
        if self.band == "low":
            return size - 1 - ranks
        return ranks if self.band == "high" else np.minimum(ranks, size - 1 - ranks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learnability:
    """Ranks by the difference of a score between two scorers.

    The worth is the score in the selection's `scores` minus that in `reference`. With
    an early checkpoint of a scorer in `scores` and a late one in `reference`, it is how
    much the loss fell in between. It is about 0 for what the scorer knew already, and
    for what it never learns.
    """

    reference: str  # The folder of the late scorer's scores of the same dataset.
    score: str = "mean_loss"  # A column of both.

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the difference, float32 [N], for the ids that both have scored.

        Raises:
          FileNotFoundError: there are no scores at `reference`.
          ValueError: these belong to other data or are not complete; or either has no
            such column, or a damaged shard.
        """
        later = scored_by(Scores.open(self.reference, dataset), self.score)
        worth = scored_by(scores, self.score)[: len(later)]
        worth -= later[: len(worth)]
        return worth


def scored_by(scores: Scores, name: str) -> np.ndarray:
    """Returns a column with one real number per sequence, float32 [N].

    Raises:
      ValueError: there is no such column; a shard of it is damaged.
    """
    dtype = scores.manifest.dtype
    real = [x for x in dtype.names or () if dtype[x] == np.float32]
    if name not in real:
        raise ValueError(
            f"The scores {scores.path} have no column {name!r} to rank by; there are "
            f"{', '.join(real)}."
        )
    return scores.column(name)
