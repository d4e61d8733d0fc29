"""Which sequences to keep, given their scores.

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

LARGEST_LOSS = 0.9  # Of a domain's sequences, before it is worth a warning.
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The scored sequences of the highest worth: `round(keep_fraction * scored)`.

    Of equal worth the smaller id is kept.
    """

    scores: str  # Where `score` wrote them.
    ranking: Ranking
    keep_fraction: float  # Of the sequences that were scored.
    # Each domain keeps as large a share as the others; what cannot be divided goes to
    # those that come nearest to one more. One with few sequences may keep none.
    per_domain: bool = False
    # Of sequences that are nearly the same only the best may be kept. They are left
    # out before anything is divided, and the number kept stays what it is.
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
        """Where the scores are that the choice needs."""
        if isinstance(self.ranking, Learnability):
            return self.scores, self.ranking.reference
        return (self.scores,)

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the ids to keep, int64, in increasing order, and logs what is odd.

        Raises: as `choose` does.
        """
        choice = self.choose(dataset)
        for line in choice.warnings():
            logging.warning("%s", line)
        return choice.ids

    def choose(self, dataset: PreparedDataset) -> SelectionResult:
        """Returns which sequences are kept, and by what.

        Raises:
          FileNotFoundError: there are no scores.
          ValueError: they are of other data, not complete or damaged; there is no such
            column; nothing would be kept, or more than there are distinct sequences.
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
        """Returns what the ranking says, having checked it."""
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
    """What a selection keeps of a dataset. Arrays are by id, over what was scored."""

    worth: np.ndarray  # Real numbers [N].
    is_kept: np.ndarray  # bool [N].
    domains: np.ndarray  # uint16 [N], indices into the manifest's.
    duplicates: Duplicates | None  # None: nobody looked for them.
    dataset: PreparedDataset

    @property
    def ids(self) -> np.ndarray:
        """The ids that are kept, int64, in increasing order."""
        return np.flatnonzero(self.is_kept).astype(np.int64, copy=False)

    def sum_by_domain(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum over each domain's sequences of `values` [N], float64 [D]."""
        return sum_by_group(
            self.domains, values, num_groups=len(self.dataset.manifest.domains)
        )

    def warnings(self) -> list[str]:
        """Returns what may not be meant, a line each; reads nothing."""
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
        """Returns a line on the domains that lose nearly all, if there are any."""
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
    """Returns what may not be meant by reading so many sequences of a selection.

    Args:
      num_kept: The rows that what is selected makes: its sequences, or about as many.
      num_read: Those that the stage reads from begin to end.
      batch_size: Those that it reads at a time.
    """
    if num_kept < batch_size:
        return [
            f"A batch of {batch_size:,} is more than the {num_kept:,} rows of what is "
            "kept: it holds some of them twice."
        ]
    if num_kept < num_read:
        return [
            f"What is kept makes {num_kept:,} rows, and the stage reads "
            f"{num_read:,}: each of them {num_read / num_kept:.2f} times."
        ]
    return []
