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
    """The rows of a stage, by number. Thread-safe."""

    @property
    def rows_per_epoch(self) -> int | None:
        """The number of rows in an epoch; None if it is unknown."""

    def fingerprint(self) -> str:
        """Returns a digest of the data and of the selected ids."""

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""


@dataclasses.dataclass(frozen=True)
class SequenceStream:
    """An endless stream of shuffled epochs over the sequences of a split."""

    dataset: PreparedDataset
    ids: np.ndarray | None  # int64, the selected sequences; None: all.
    seed: int  # Of the shuffles.

    def __len__(self) -> int:
        """The number of sequences in an epoch."""
        return len(self.dataset if self.ids is None else self.ids)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the split and of the selected ids."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        if self.ids is not None:
            digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()

    def ids_at(self, places: np.ndarray) -> np.ndarray:
        """Returns the ids of the sequences at `places` of the stream, int64 [N]."""
        shuffled = permutation.shuffled(places, size=len(self), seed=self.seed)
        return shuffled if self.ids is None else self.ids[shuffled]


class SequenceRows:
    """One sequence per row, for causal language modeling."""

    def __init__(self, dataset: PreparedDataset, ids: np.ndarray | None, seed: int):
        """Reads the sequences `ids`, int64, or all; `seed` shuffles them."""
        self.dataset = dataset
        self.stream = SequenceStream(dataset, ids, seed)

    @property
    def rows_per_epoch(self) -> int:
        """The number of sequences, or of selected ones."""
        return len(self.stream)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the split and of the selected ids."""
        return self.stream.fingerprint()

    def ids(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the id of the sequence in each row, int64 [B]."""
        return self.stream.ids_at(numbers)

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        return causal_batch(self.dataset.read(self.ids(numbers)))


def causal_batch(sequences: Sequences) -> Batch:
    """Returns the batch for causal language modeling on `sequences`.

    Every token is a target. The first token of each document, and of each row, is
    predicted from `sequences.begin_id`.
    """
    begin_id = sequences.begin_id
    tokens_BL = np.full_like(sequences.tokens, begin_id)
    tokens_BL[:, 1:] = sequences.tokens[:, :-1]
    tokens_BL[sequences.positions == 0] = begin_id  # Padding has position 0, too.
    fields: dict[str, Any] = {
        "tokens_BL": tokens_BL,
        "targets_BL": sequences.tokens,
        "weights_BL": (sequences.segments > 0).astype(np.float32),
        "segments_BL": sequences.segments,
        "positions_BL": sequences.positions,
    }
    return Batch(**fields)
