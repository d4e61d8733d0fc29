"""Rows of tokens by their number in an endless stream of shuffled epochs.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Protocol

import numpy as np

from salt_jax.batch import Batch
from salt_jax.data import permutation
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.sequences import Sequences


class Rows(Protocol):
    """What the rows of all batches of a stage are. May be read from several threads."""

    @property
    def rows_per_epoch(self) -> int | None:
        """After how many rows text comes again, in another order; None: not known."""

    def fingerprint(self) -> str:
        """Returns a digest of the text that is read, and of what is selected of it."""

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""


@dataclasses.dataclass(frozen=True)
class SequenceStream:
    """The sequences of a split, whole or selected, in epoch after shuffled epoch."""

    dataset: PreparedDataset
    ids: np.ndarray | None  # int64, those to read; None for all.
    seed: int  # Decides their order.

    def __len__(self) -> int:
        """The sequences of an epoch."""
        return len(self.dataset if self.ids is None else self.ids)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the split and of the ids that are read."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        if self.ids is not None:
            digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()

    def ids_at(self, places: np.ndarray) -> np.ndarray:
        """Returns the ids of the sequences at `places` of the stream, int64 [N]."""
        shuffled = permutation.shuffled(places, size=len(self), seed=self.seed)
        return shuffled if self.ids is None else self.ids[shuffled]


class SequenceRows:
    """Whole sequences, each token predicted from those before it."""

    def __init__(self, dataset: PreparedDataset, ids: np.ndarray | None, seed: int):
        """Takes the `ids` to read, int64, by default all; the seed orders them."""
        self.dataset = dataset
        self._stream = SequenceStream(dataset, ids, seed)

    @property
    def rows_per_epoch(self) -> int:
        """How many sequences there are, or were selected."""
        return len(self._stream)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the split and of the ids that are read."""
        return self._stream.fingerprint()

    def ids(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the ids of the sequences that rows hold, int64 [B]."""
        return self._stream.ids_at(numbers)

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        return causal_batch(self.dataset.read(self.ids(numbers)))


def causal_batch(sequences: Sequences) -> Batch:
    """Returns the batch in which each token is predicted from those before it.

    Every token is a target; the first of each document, and of each row, is predicted
    from `sequences.begin_id`.
    """
    begin_id = sequences.begin_id
    tokens_BL = np.full_like(sequences.tokens, begin_id)
    tokens_BL[:, 1:] = sequences.tokens[:, :-1]
    tokens_BL[sequences.positions == 0] = begin_id  # Of padding, all are 0.
    fields: dict[str, Any] = {
        "tokens_BL": tokens_BL,
        "targets_BL": sequences.tokens,
        "weights_BL": (sequences.segments > 0).astype(np.float32),
        "segments_BL": sequences.segments,
        "positions_BL": sequences.positions,
    }
    return Batch(**fields)
