"""Rows of tokens by their number in an endless stream of shuffled epochs.

Dimensions: B batch, L length.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from salt_jax.batch import Batch
from salt_jax.data import permutation
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.sequences import Sequences

# What the model reads where there is no token before: at the start of each document,
# and of each row. SeqIO's converters for language models use the same.
BEGIN_ID = 0


class Rows(Protocol):
    """What the rows of all batches of a stage are. May be read from several threads."""

    @property
    def rows_per_epoch(self) -> int:
        """After how many rows the same text comes again, in another order."""

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""


class SequenceRows:
    """Whole sequences, each token predicted from those before it."""

    def __init__(self, dataset: PreparedDataset, ids: np.ndarray | None, seed: int):
        """Takes the `ids` to read, int64, by default all; the seed orders them."""
        self.dataset = dataset
        self._ids = ids
        self._seed = seed

    @property
    def rows_per_epoch(self) -> int:
        """How many sequences there are, or were selected."""
        return len(self.dataset if self._ids is None else self._ids)

    def ids(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the ids of the sequences that rows hold, int64 [B]."""
        shuffled = permutation.shuffled(
            numbers, size=self.rows_per_epoch, seed=self._seed
        )
        return shuffled if self._ids is None else self._ids[shuffled]

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        return causal_batch(self.dataset.read(self.ids(numbers)))


def causal_batch(sequences: Sequences) -> Batch:
    """Returns the batch in which each token is predicted from those before it.

    Every token is a target; the first of each document is predicted from `BEGIN_ID`.
    """
    tokens_BL = np.roll(sequences.tokens, 1, axis=1)
    is_target_BL = sequences.segments > 0
    is_seen_BL = is_target_BL & (sequences.positions > 0)
    fields: dict[str, Any] = {
        "tokens_BL": np.where(is_seen_BL, tokens_BL, BEGIN_ID).astype(np.int32),
        "targets_BL": sequences.tokens,
        "weights_BL": is_target_BL.astype(np.float32),
        "segments_BL": sequences.segments,
        "positions_BL": sequences.positions,
    }
    return Batch(**fields)
