"""Selects the sequences to train on by their scores.

Dimensions: N scored sequences, D domains.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.scores import Scores
from salt_jax.data.selecting.near_duplicates import Duplicates, NearDuplicates
from salt_jax.data.selecting.quotas import highest_of_groups, sum_by_group
from salt_jax.data.selecting.ranking import Learnability, Ranking

LARGEST_LOSS = 0.9  # Warn about domains that lose a larger share of their sequences.
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Keeps the `round(keep_fraction * N)` highest-ranked of N scored sequences.

    Ties go to the smaller id.
    """

    scores: str  # The folder that `score` wrote.
    ranking: Ranking
    keep_fraction: float  # Of the scored sequences.
    # Whether every domain keeps the same share. Numbers are rounded by largest
    # remainders, so a domain with few sequences may keep none.
    per_domain: bool = False
    # Drops near-duplicates of better sequences first. The number of sequences that are
    # kept does not change: lower-ranked ones take their places.
    near_duplicates: NearDuplicates | None = None

    def __post_init__(self):
        if not callable(getattr(self.ranking, "worth", None)):
            raise ValueError(
                f"ranking must have a worth(scores, dataset), such as "
                f"@ranking.HighestScores() in gin, got {self.ranking!r}."
            )
        if not 0.0 < self.keep_fraction <= 1.0:
            raise ValueError(
                f"keep_fraction must be in (0, 1], got {self.keep_fraction}."
            )

    @property
    def score_folders(self) -> tuple[str, ...]:
        """The folders of all scores that the selection reads."""
        if isinstance(self.ranking, Learnability):
            return self.scores, self.ranking.reference
        return (self.scores,)

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the ids to keep, int64, increasing; logs warnings.

        Raises what `choose` does.
        """
        choice = self.choose(dataset)
        for line in choice.warnings():
            logging.warning("%s", line)
        return choice.ids

    def choose(self, dataset: PreparedDataset) -> SelectionResult:
        """Returns the selected sequences, with the reasons.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: the scores belong to other data, are not complete or are damaged;
            there is no such column; or keep_fraction selects nothing, or more than the
            sequences without near-duplicates.
        """
        scores = Scores.open(self.scores, dataset)
        worth = self._worth(scores, dataset)
        domains = scores.column("domain")[: len(worth)]
        duplicates = None
        may_be_kept = np.ones(len(worth), bool)
        if self.near_duplicates is not None:
            sketch = scores.column("sketch")[: len(worth)]
            duplicates = self.near_duplicates.find(worth, sketch, dataset)
            may_be_kept[duplicates.dropped] = False
        count = self._num_kept(len(worth), int(may_be_kept.sum()))
        groups = domains if self.per_domain else np.zeros(len(worth), np.uint8)
        return SelectionResult(
            worth=worth,
            is_kept=highest_of_groups(worth, groups, may_be_kept, count),
            domains=domains,
            duplicates=duplicates,
            dataset=dataset,
        )

    def _worth(self, scores: Scores, dataset: PreparedDataset) -> np.ndarray:
        """Returns the worth that the ranking gives, after checking it."""
        worth = np.asarray(self.ranking.worth(scores, dataset))
        is_real = worth.dtype.kind in "fiu" and worth.ndim == 1
        num_odd = np.count_nonzero(~np.isfinite(worth)) if is_real else 0
        if not is_real or len(worth) > len(scores) or num_odd:
            raise ValueError(
                f"{type(self.ranking).__name__} must give up to {len(scores)} "
                f"sequences a finite number each, gave {worth.dtype} {worth.shape}, of "
                f"which {num_odd} are not finite."
            )
        return worth

    def _num_kept(self, num_scored: int, num_distinct: int) -> int:
        num_kept = round(self.keep_fraction * num_scored)
        asked = f"keep_fraction={self.keep_fraction} of {num_scored} scored sequences"
        if num_kept == 0:
            raise ValueError(f"{asked} is none: raise it, or score more.")
        if num_kept > num_distinct:
            raise ValueError(
                f"{asked} is {num_kept}, and without near-duplicates there are "
                f"{num_distinct}: lower it, or raise min_similarity."
            )
        return num_kept


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SelectionResult:
    """The outcome of a selection. Arrays are indexed by id, over scored sequences."""

    worth: np.ndarray  # Real numbers [N].
    is_kept: np.ndarray  # bool [N].
    domains: np.ndarray  # uint16 [N], indices into the manifest's domains.
    duplicates: Duplicates | None  # None if near-duplicates were not searched for.
    dataset: PreparedDataset

    @property
    def ids(self) -> np.ndarray:
        """The ids that are kept, int64, increasing."""
        return np.flatnonzero(self.is_kept).astype(np.int64, copy=False)

    def sum_by_domain(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum of `values` [N] over each domain, float64 [D]."""
        return sum_by_group(
            self.domains, values, num_groups=len(self.dataset.manifest.domains)
        )

    def warnings(self) -> list[str]:
        """Returns one line for each property that may be a mistake; reads no files."""
        num_scored, num_all = len(self.worth), len(self.dataset)
        lines = []
        if num_scored < num_all:
            lines.append(
                f"Only the first {num_scored:,} of {num_all:,} sequences are scored "
                f"({num_scored / num_all:.1%}): no other can be kept."
            )
        share = np.count_nonzero(self.worth == 0) / num_scored
        if share > 0.5:
            lines.append(
                f"{share:.1%} of the scores are 0: the highest are mostly ties, of "
                "which the smaller ids are kept."
            )
        return [*lines, *self._lost_domains()]

    def _lost_domains(self) -> list[str]:
        """Returns a line about domains that lose nearly everything, if any do."""
        names = self.dataset.manifest.domains
        scored, kept = map(
            self.sum_by_domain, (np.ones_like(self.is_kept), self.is_kept)
        )
        lost = np.flatnonzero(scored - kept > LARGEST_LOSS * scored)
        if not len(lost):
            return []
        listed = [
            f"{names[i]} keeps {kept[i]:,.0f} of {scored[i]:,.0f}"
            for i in lost[np.argsort(-scored[lost], kind="stable")]
        ]
        more = len(listed) - _MOST_NAMED
        listed[_MOST_NAMED:] = [f"{more} more"] if more > 0 else []
        return [
            f"{len(lost)} of {np.count_nonzero(scored)} domains lose more than "
            f"{LARGEST_LOSS:.0%} of their sequences, where "
            f"{1 - self.is_kept.mean():.1%} of all are lost: {', '.join(listed)}."
        ]


def stage_warnings(num_kept: int, *, num_read: int, batch_size: int) -> list[str]:
    """Returns warnings about a stage that reads selected rows more than once.

    Args:
      num_kept: The number of rows in an epoch of the selection.
      num_read: The number of rows that the stage reads in total.
      batch_size: The number of rows in a batch.
    """
    if num_kept < batch_size:
        return [
            f"A batch of {batch_size:,} rows exceeds the {num_kept:,} rows that are "
            "kept: it repeats some of them."
        ]
    if num_kept < num_read:
        return [
            f"The stage reads {num_read:,} rows, and {num_kept:,} are kept: it repeats "
            f"each of them {num_read / num_kept:.2f} times."
        ]
    return []
