"""By what sequences are preferred, as values; anyone can bring another.

A ranking gives each scored sequence a worth; `Selection` keeps those of the highest.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from salt_jax.data import permutation
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.scores import Scores

BANDS = ("low", "mid", "high")
_BLOCK = 1 << 18  # Numbers shuffled at a time, in 20 MiB.


class Ranking(Protocol):
    """Says what each sequence is worth."""

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the worth of the sequences from id 0 on; higher is kept.

        Args:
          scores: Of `dataset`.
          dataset: The sequences.

        Returns:
          Real numbers [N], with N at most `len(scores)`; later ids are not kept.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighestScores:
    """Those that the scorer finds most worth learning: SALT_DS."""

    score: str  # A column of the scores.

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the column, float32 [N].

        Raises:
          ValueError: there is no such column; a shard of it is damaged.
        """
        return scored_by(scores, self.score)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """As many, whatever they score. A larger share holds all of a smaller one."""

    seed: int

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the numbers from 0 to N - 1 in an order of the seed, int32 [N]."""
        size = len(scores)
        places = np.empty(size, np.int32)
        for begin in range(0, size, _BLOCK):
            numbers = np.arange(begin, min(begin + _BLOCK, size))
            places[numbers] = permutation.shuffled(numbers, size=size, seed=self.seed)
        return places


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityBand:
    """The easiest ("low"), the middle or the hardest ("high") by the mean loss.

    The middle is that of all scored sequences, whatever their domains. The three bands
    of a third each share no sequence: of equal losses, the smaller id is the easier.
    """

    band: str  # One of `BANDS`.

    def __post_init__(self):
        if self.band not in BANDS:
            raise ValueError(f"band must be one of {BANDS}, got {self.band!r}.")

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns how deep in the band each is, counted in sequences, int32 [N].

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
    """Those that fell most between two scorers: what was learned from one to the other.

    The worth is the score by the selection's own `scores` less that by `reference`. So
    with an early scorer's in `scores` and a later one's in `reference` it is the loss
    that the small model lost in between; what it knew already, and what it never
    learns, are worth about 0.
    """

    reference: str  # Where `score` wrote the later scorer's, of the same dataset.
    score: str = "mean_loss"  # A column of both.

    def worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the difference, float32 [N], over the smaller of the two pools.

        Raises:
          FileNotFoundError: there are no scores at `reference`.
          ValueError: those are of other data, or not complete; one of the two has no
            such column, or a damaged shard.
        """
        later = scored_by(Scores.open(self.reference, dataset), self.score)
        worth = scored_by(scores, self.score)[: len(later)]
        worth -= later[: len(worth)]
        return worth


def scored_by(scores: Scores, name: str) -> np.ndarray:
    """Returns a column that has one real number a sequence, float32 [N].

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
