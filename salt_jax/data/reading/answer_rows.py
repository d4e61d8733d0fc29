"""Rows of whole examples, with the same number of rows in every epoch.

Packing uses only the lengths of the examples and is done once. Each epoch reshuffles
examples of equal length among their slots, and the order of the rows. So every epoch
holds each example once, all epochs are equally full, and a row can be computed from
its number alone.

Dimensions: B batch, P examples.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from salt_jax.batch import Batch
from salt_jax.data import permutation
from salt_jax.data.reading.objectives import Example
from salt_jax.data.reading.packing import packed
from salt_jax.data.vocabulary import Vocabulary

_KEPT_EPOCHS = 4  # Cached orders; batches that are read ahead span two epochs at most.


class AnswerRows:
    """The rows that examples are packed into. Thread-safe."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        seq_len: int,
        seed: int,
        vocabulary: Vocabulary,
    ):
        """Packs at least one example; none may be longer than `seq_len` tokens."""
        self._examples = examples
        self._seq_len = seq_len
        self._seed = seed
        self._vocabulary = vocabulary
        self._lengths = np.array([len(x.inputs) + len(x.targets) for x in examples])
        rows = rows_of_lengths(np.sort(self._lengths)[::-1], seq_len)
        # The slots of each row. Slots are numbered by decreasing length.
        by_row = np.argsort(rows, kind="stable")
        self._places = np.split(by_row, np.cumsum(np.bincount(rows))[:-1])
        self._order = functools.lru_cache(_KEPT_EPOCHS)(self._order_of)
        logging.info(
            "%s examples, the longest of %d tokens, in %s rows of %d, %.1f%% full.",
            f"{len(examples):,}",
            self._lengths.max(),
            f"{len(self._places):,}",
            seq_len,
            100 * self._lengths.sum() / (len(self._places) * seq_len),
        )

    @property
    def rows_per_epoch(self) -> int:
        """The number of rows that the examples take."""
        return len(self._places)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of all tokens and of the vocabulary."""
        digest = hashlib.sha256(self._vocabulary.fingerprint.encode())
        for example in self._examples:
            for tokens in example:
                digest.update(len(tokens).to_bytes(8, "little"))
                digest.update(np.ascontiguousarray(tokens, "<i4").data)
        return digest.hexdigest()

    def ids(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Returns the indices of the examples in each of the rows `numbers`."""
        numbers = np.asarray(numbers, np.int64)
        count = self.rows_per_epoch
        rows = permutation.shuffled(numbers, size=count, seed=self._seed)
        epochs = numbers // count
        return [
            self._order(epoch)[self._places[row]]
            for epoch, row in zip(epochs.tolist(), rows.tolist(), strict=True)
        ]

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        ids = self.ids(numbers)
        examples = [self._examples[i] for row in ids for i in row.tolist()]
        return packed(
            examples,
            np.repeat(np.arange(len(ids)), [len(row) for row in ids]),
            np.full(len(examples), self._vocabulary.begin_id),
            shape=(len(ids), self._seq_len),
            pad_id=self._vocabulary.pad_id,
            has_prefix=False,
        )

    def _order_of(self, epoch: int) -> np.ndarray:
        """Returns the indices of the examples by decreasing length, ties shuffled."""
        count = len(self._examples)
        places = np.arange(count) + epoch * count
        chance = permutation.shuffled(places, size=count, seed=~self._seed)
        return np.lexsort((chance, -self._lengths))


def rows_of_lengths(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """Assigns lengths to rows of `seq_len` tokens by best-fit decreasing bin packing.

    Each length goes to the fullest row that still has room for it, or starts a row.

    Args:
      lengths: int64 [P], in decreasing order, each from 1 to `seq_len`.
      seq_len: The capacity of a row, in tokens.

    Returns:
      The row of each length, int64 [P], from 0.
    """
    rows_with: list[list[int]] = [[] for _ in range(seq_len + 1)]  # By free room.
    rooms = 0  # Bit `room` is set if some row has exactly that much room.
    num_rows = 0
    found = np.empty(len(lengths), np.int64)
    for place, length in enumerate(lengths.tolist()):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms ^= 1 << room
        else:
            room, row, num_rows = seq_len, num_rows, num_rows + 1
        found[place] = row
        left = room - length
        rows_with[left].append(row)
        rooms |= 1 << left
    return found
