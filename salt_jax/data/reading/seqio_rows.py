"""The rows of a SeqIO pipeline, which can only be read from its beginning.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import collections
import hashlib
import threading
from collections.abc import Iterable, Iterator

import numpy as np
from absl import logging

from salt_jax.batch import Batch
from salt_jax.data.reading.objectives import Example
from salt_jax.data.reading.packing import packed
from salt_jax.data.reading.seqio_source import Source

# How many rows are kept after they were read: concurrent batches ask for rows in any
# order. Less than 100 MB at 1,280 tokens a row.
KEEP_ROWS = 1 << 14
_NOTHING = np.zeros(0, np.int32)


class SeqioRows:
    """The rows of a source, read in order. Thread-safe."""

    def __init__(
        self,
        source: Source,
        *,
        seq_len: int,
        seed: int | None,
        keep_rows: int = KEEP_ROWS,
    ):
        """Keeps the last `keep_rows` rows, or more if concurrent batches need them."""
        self.source = source
        self._keep_rows = keep_rows
        self._seq_len = seq_len
        self._seed = seed
        self._lock = threading.Lock()
        self._asked: int | None = None  # The first row of the last request.
        self._stride = 0  # The largest distance between consecutive requests.
        self._restart()

    @property
    def rows_per_epoch(self) -> None:
        """None: the length of an epoch is unknown until it has been read."""
        return None

    def fingerprint(self) -> str:
        """Returns a digest of the task's name and vocabulary, not of its examples."""
        known = f"{self.source.name} {self.source.vocabulary.fingerprint}"
        return hashlib.sha256(known.encode()).hexdigest()

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays.

        Raises:
          ValueError: an example is longer than a row, or the source fails.
        """
        rows = self._rows(np.asarray(numbers, np.int64))
        examples = [example for row in rows for example in row]
        return packed(
            examples,
            np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
            np.full(len(examples), self.source.vocabulary.begin_id),
            shape=(len(rows), self._seq_len),
            pad_id=self.source.vocabulary.pad_id,
            has_prefix=self.source.has_inputs,
        )

    def _rows(self, numbers: np.ndarray) -> list[list[Example]]:
        first, last = int(numbers.min()), int(numbers.max())
        with self._lock:
            # A host's rows of two batches are separated by those of all other hosts.
            apart = 0 if self._asked is None else abs(first - self._asked)
            self._stride = max(self._stride, apart, last - first + 1)
            self._asked = first
            if first < self._end - len(self._kept):
                logging.warning("%s: reading again from the start.", self.source.name)
                self._restart()
            # A small distance is normal: other batches are read at the same time.
            if first - self._end > 16 * len(numbers):
                logging.info(
                    "%s: reading and dropping %d rows to start at row %d. Prepared "
                    "data would start at once.",
                    self.source.name,
                    first - self._end,
                    first,
                )
            self._read_to(last, keep=max(self._keep_rows, 5 * self._stride))
            begin = self._end - len(self._kept)
            return [self._kept[number - begin] for number in numbers.tolist()]

    def _read_to(self, last: int, *, keep: int) -> None:
        try:
            while self._end <= last:
                self._kept.append(next(self._stream))
                self._end += 1
                if len(self._kept) > keep:
                    self._kept.popleft()
        except Exception:
            self._restart()  # A generator that raised has ended for good.
            raise

    def _restart(self) -> None:
        cut = _prefixed_rows if self.source.has_inputs else _full_rows
        self._stream = cut(self.source.examples(self._seed), self._seq_len)
        self._kept: collections.deque[list[Example]] = collections.deque()
        self._end = 0  # The number of the row that comes next.


def _full_rows(examples: Iterable[Example], seq_len: int) -> Iterator[list[Example]]:
    """Yields full rows; an example may continue in the next row."""
    row: list[Example] = []
    room = seq_len
    for _, targets in examples:
        while len(targets):
            row.append(Example(_NOTHING, targets[:room]))
            targets = targets[room:]
            room -= len(row[-1].targets)
            if room == 0:
                yield row
                row, room = [], seq_len


def _prefixed_rows(
    examples: Iterable[Example], seq_len: int
) -> Iterator[list[Example]]:
    """Yields rows of whole examples, in order, as many as fit.

    Examples without targets are dropped: there is nothing to learn from them.
    """
    row: list[Example] = []
    room = seq_len
    for example in examples:
        length = len(example.inputs) + len(example.targets)
        if length > seq_len:
            raise ValueError(
                f"An example has {len(example.inputs)} inputs and "
                f"{len(example.targets)} targets, and a row {seq_len} tokens: raise "
                "seq_len, or trim them with inputs_length and targets_length."
            )
        if len(example.targets) == 0:
            continue
        if length > room:
            yield row
            row, room = [], seq_len
        row.append(example)
        room -= length
