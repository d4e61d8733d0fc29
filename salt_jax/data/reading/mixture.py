"""Several prepared datasets, such as one a domain, read as one with given shares.

In every block of consecutive rows, and in every prefix of blocks, each part has its
share to within one row. The rows of a block are shuffled. A row is computed from its
number alone. In a Gin file:

    from __gin__ import dynamic_registration
    from salt_jax import config
    from salt_jax.data.reading import mixture
    from salt_jax.data.reading import prepared_text

    config.Stage.data = @mixture.PreparedMixture()

    mixture.PreparedMixture:
      parts = (@books/prepared_text.PreparedText(), @code/prepared_text.PreparedText())
      weights = (0.7, 0.3)

    books/prepared_text.PreparedText.path = '/data/books'
    code/prepared_text.PreparedText.path = '/data/code'

Dimensions: N rows, P parts, L length.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from salt_jax.batch import Batch
from salt_jax.data import permutation
from salt_jax.data.apportionment import apportion
from salt_jax.data.reading.prepared_text import StageData
from salt_jax.data.reading.rows import Rows
from salt_jax.data.vocabulary import Vocabulary

_MIN_BLOCK = 1000  # Rows: enough for the shares of a large batch to be nearly exact.
_NUM_THREADS = 8
_MASK_64 = (1 << 64) - 1
_PATTERN = 0  # The seed of the mixing order has index 0, those of parts 1, 2, ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedMixture:
    """A weighted mixture of prepared sets; each has its own epochs."""

    parts: Sequence[StageData]
    weights: Sequence[float]  # Proportions of rows; need not add up to 1.

    def __post_init__(self):
        if not self.parts or len(self.parts) != len(self.weights):
            raise ValueError(
                f"A mixture has one weight for each of its parts, got {len(self.parts)}"
                f" parts and {len(self.weights)} weights."
            )
        if not all(0.0 < weight < math.inf for weight in self.weights):
            raise ValueError(
                f"The weights of a mixture are positive, got {tuple(self.weights)}: "
                "leave out a part that is not to be read."
            )

    @property
    def vocabulary(self) -> str:
        """The path of the vocabulary that all parts share."""
        return self.parts[0].vocabulary

    @property
    def has_prefix(self) -> bool:
        """Whether rows have a prefix with bidirectional attention."""
        return any(part.has_prefix for part in self.parts)

    def open_rows(self, *, seq_len: int, seed: int) -> Rows:
        """Opens all parts, each shuffled by a seed of its own.

        Raises:
          FileNotFoundError: the data of a part is missing.
          ValueError: a part has another vocabulary, or was prepared differently.
        """
        first, *others = [Vocabulary.open(part.vocabulary) for part in self.parts]
        for other in others:
            if other.fingerprint != first.fingerprint:
                raise ValueError(
                    f"The parts of a mixture have different vocabularies: {first.path} "
                    f"is {first.fingerprint[:12]}, {other.path} is "
                    f"{other.fingerprint[:12]}. Prepare them with the same one."
                )
        parts = [
            part.open_rows(seq_len=seq_len, seed=_derived(seed, 1 + index))
            for index, part in enumerate(self.parts)
        ]
        order = MixedOrder(tuple(self.weights), _derived(seed, _PATTERN))
        return _MixedRows(parts, order, has_prefix=self.has_prefix)


def _derived(seed: int, use: int) -> int:
    """Returns an independent seed for one use of `seed`."""
    sequence = np.random.SeedSequence((seed & _MASK_64, use))
    return int(sequence.generate_state(1, np.uint64)[0])


class MixedOrder:
    """Assigns each row of an endless stream to a part, in given shares."""

    def __init__(self, weights: Sequence[float], seed: int):
        self._weights = np.array(weights, np.float64)
        self.shares = self._weights / math.fsum(weights)
        # A block has at least two rows of each part: a part that is less than one row
        # ahead of its share after one block still gets a row in the next.
        self.block_size = max(_MIN_BLOCK, math.ceil(2 / self.shares.min()))
        self._seed = seed

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part of each row, and the row's number within its part.

        Args:
          numbers: int64 [N], at least 0.

        Returns:
          int64 [N], indices of parts, and int64 [N].
        """
        numbers = np.asarray(numbers, np.int64)
        # Each block is one epoch of a shuffle over its places.
        place = permutation.shuffled(numbers, size=self.block_size, seed=self._seed)
        blocks, block_of = np.unique(numbers // self.block_size, return_inverse=True)
        begins_UP = np.array([self._rows_before(block) for block in blocks])
        counts_UP = np.array([self._rows_before(block + 1) for block in blocks])
        ends_UP = np.cumsum(counts_UP - begins_UP, axis=1)
        part = np.sum(place[:, None] >= ends_UP[block_of], axis=1)
        # Before shuffling, the places of a part are consecutive.
        end = ends_UP[block_of, part]
        return part, place - end + counts_UP[block_of, part]

    def _rows_before(self, block: int) -> np.ndarray:
        """Returns the number of rows of each part before a block, int64 [P]."""
        return apportion(int(block) * self.block_size, self._weights)


class _MixedRows:
    """The rows of several parts in one order. Thread-safe."""

    def __init__(self, parts: Sequence[Rows], order: MixedOrder, *, has_prefix: bool):
        self.parts = parts
        self.order = order
        self._has_prefix = has_prefix
        # Not the pool that reads shards: these threads wait for it.
        count = min(len(parts), _NUM_THREADS)
        self._threads = concurrent.futures.ThreadPoolExecutor(count, "mixture")

    @property
    def rows_per_epoch(self) -> int | None:
        """The rows until a part first repeats; None if no part knows its length."""
        lengths = [
            part.rows_per_epoch / share
            for part, share in zip(self.parts, self.order.shares, strict=True)
            if part.rows_per_epoch is not None
        ]
        return math.floor(min(lengths)) if lengths else None

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the fingerprints of all parts."""
        parts = "".join(part.fingerprint() for part in self.parts)
        return hashlib.sha256(parts.encode()).hexdigest()

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        part, row = self.order.locate(numbers)
        indices, begins = np.unique(np.sort(part), return_index=True)
        places = np.split(np.argsort(part, kind="stable"), begins[1:])
        reading = [
            self._threads.submit(self.parts[index].read, row[where])
            for index, where in zip(indices, places, strict=True)
        ]
        batches = [self._completed(future.result()) for future in reading]
        back = np.argsort(np.concatenate(places))
        return _joined(batches, back)

    def _completed(self, batch: Batch) -> Batch:
        """Adds an empty prefix to a batch without one, if other parts have prefixes."""
        if not self._has_prefix or batch.prefix_BL is not None:
            return batch
        prefix_BL: Any = np.zeros(batch.tokens_BL.shape, bool)
        return dataclasses.replace(batch, prefix_BL=prefix_BL)


def _joined(batches: Sequence[Batch], order: np.ndarray) -> Batch:
    """Concatenates batches and reorders their rows."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Batch):
        arrays = [getattr(batch, field.name) for batch in batches]
        if arrays[0] is not None:
            fields[field.name] = np.concatenate(arrays)[order]
    return Batch(**fields)
