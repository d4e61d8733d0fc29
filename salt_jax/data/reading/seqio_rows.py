"""The rows that a SeqIO pipeline makes, which begins at its beginning only.

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

# Of rows that were read, so many are kept: batches that are made at the same time ask
# for theirs in any order. Less than 100 MB at 1,280 tokens.
_KEEP_ROWS = 1 << 14
_NOTHING = np.zeros(0, np.int32)


class SeqioRows:
    """The rows of a source, read in order. May be read from several threads."""

    def __init__(self, source: Source, *, seq_len: int, seed: int | None):
        self.source = source
        self._seq_len = seq_len
        self._seed = seed
        self._lock = threading.Lock()
        self._asked: int | None = None  # The first row that was last asked for.
        self._stride = 0  # The most rows between two that were asked for in turn.
        self._restart()

    @property
    def rows_per_epoch(self) -> None:
        """After how many rows text comes again: that is known when it does."""
        return None

    def fingerprint(self) -> str:
        """Returns a digest of the task's name and vocabulary; more is not known."""
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
            # Between a host's rows of two batches are those of all other hosts.
            apart = 0 if self._asked is None else abs(first - self._asked)
            self._stride = max(self._stride, apart, last - first + 1)
            self._asked = first
            if first < self._end - len(self._kept):
                logging.warning("%s: reading it from its beginning.", self.source.name)
                self._restart()
            # Some rows more are what batches read that are made at the same time.
            if first - self._end > 16 * len(numbers):
                logging.info(
                    "%s: reading and dropping %d rows, to begin at row %d. Prepared "
                    "data begins anywhere at once.",
                    self.source.name,
                    first - self._end,
                    first,
                )
            self._read_to(last, keep=max(_KEEP_ROWS, 5 * self._stride))
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
            self._restart()  # What failed has ended, and would end again without why.
            raise

    def _restart(self) -> None:
        cut = _prefixed_rows if self.source.has_inputs else _full_rows
        self._stream = cut(self.source.examples(self._seed), self._seq_len)
        self._kept: collections.deque[list[Example]] = collections.deque()
        self._end = 0  # The number of the row that comes next.


def _full_rows(examples: Iterable[Example], seq_len: int) -> Iterator[list[Example]]:
    """Yields rows without padding; an example goes on in the row after its own."""
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
    """Yields rows of whole examples, as many as fit in their order.

    An example without targets, from which nothing can be learnt, is left out.
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
