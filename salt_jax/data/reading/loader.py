"""Batches by index: the same for any number of hosts, and after any restart.

A batch holds the rows after those of the batches before it, of an endless stream of
shuffled epochs, shifted by a constant if the batch sizes were others before. A batch
may span the end of one epoch and the beginning of the next.
A row is computed from its number, so starting at a late batch costs nothing.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import collections
import concurrent.futures
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.reading import batch_ranges
from salt_jax.data.reading.batch_sizes import Ramp
from salt_jax.data.reading.prepared_text import StageData
from salt_jax.data.reading.rows import Rows
from salt_jax.mesh.partitioning import Partitioning

_FIELDS = ("tokens_BL", "targets_BL", "weights_BL", "segments_BL", "positions_BL")


class Loader:
    """The batches of a stage, by index. Thread-safe."""

    def __init__(
        self,
        data: StageData,
        *,
        batch_size: int | Ramp,
        seq_len: int,
        seed: int,
        partitioning: Partitioning,
        skip_batches: batch_ranges.Ranges = (),
        first_row: int = 0,
    ):
        """Opens the data.

        Args:
          data: What to read.
          batch_size: Rows of a batch, or of each batch.
          seq_len: Tokens of a row.
          seed: Of the order of the rows.
          partitioning: Where batches go.
          skip_batches: Batches that are not read.
          first_row: Of batch 0. Negative if earlier batches were smaller.

        Raises:
          FileNotFoundError: the data, its vocabulary or its scores are missing.
          ValueError: the batch does not divide over the mesh; the data was prepared
            with other settings; the scores belong to other data.
        """
        shards = partitioning.size("batch")
        sizes = [(0, batch_size)] if isinstance(batch_size, int) else batch_size.sizes
        for _, size in sizes:
            if size < 1 or size % shards:
                raise ValueError(
                    f"batch_size={size} is not a positive multiple of {shards}, the "
                    f"shards of a batch on the mesh {dict(partitioning.mesh.shape)}."
                )
        self.rows: Rows = data.open_rows(seq_len=seq_len, seed=seed)
        self._fields = _FIELDS + ("prefix_BL",) * data.has_prefix
        self._batches, self._first_row = Ramp(sizes=sizes), first_row
        self._skipped = skip_batches
        self._seq_len = seq_len
        self._sharding = partitioning.sharding("batch", "length")

    def first_read(self, index: int) -> int:
        """Returns the first batch from `index` on that is not left out by name."""
        return batch_ranges.first_outside(self._skipped, index)

    def row_numbers(self, index: int) -> np.ndarray:
        """Returns the numbers of the rows of batch `index`, int64 [B]."""
        begin = self._first_row + self._batches.rows(0, index)
        return np.arange(begin, begin + self._batches.size(index))

    def host_batch(self, index: int, rows: slice | None = None) -> Batch:
        """Returns `rows` of batch `index`, all by default, as numpy arrays."""
        numbers = self.row_numbers(index)
        return self.rows.read(numbers if rows is None else numbers[rows])

    def device_batch(self, index: int) -> Batch:
        """Returns batch `index` as global arrays; reads only this process' rows."""
        read: dict[tuple[int, int, int], Batch] = {}
        shape = self._batches.size(index), self._seq_len

        def rows_of(rows: slice) -> Batch:
            # Devices along the model axis hold the same rows.
            key = rows.indices(shape[0])
            if key not in read:
                read[key] = self.host_batch(index, rows)
            return read[key]

        def global_array(name: str) -> jax.Array:
            def shard(place: Any) -> np.ndarray:
                return getattr(rows_of(place[0]), name)[:, place[1]]

            return jax.make_array_from_callback(shape, self._sharding, shard)

        return Batch(**{name: global_array(name) for name in self._fields})


class Batches(Iterator[Batch]):
    """An iterator over consecutive batches on the mesh, with read-ahead in threads.

    Batches that are left out by name are passed over, and their rows are not read. A
    context manager: leaving it ends the threads.
    """

    def __init__(
        self,
        loader: Loader,
        begin_index: int,
        read_ahead: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self.stall_seconds = 0.0  # Total time that `next` has waited.
        self._loader = loader
        self._next_index = begin_index
        self._is_closed = False
        self._threads = concurrent.futures.ThreadPoolExecutor(read_ahead, "read-ahead")
        self._ahead = collections.deque(self._begin() for _ in range(read_ahead))

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
          ValueError: the iterator is closed, or the data of the batch is invalid.
          OSError: the data could not be read.
        """
        if self._is_closed:
            raise ValueError("These batches are closed.")
        begin = self._clock()
        index, future = self._ahead.popleft()
        try:
            batch = future.result()
        except Exception as error:
            self.close()
            raise _at(index, error) from error
        self.stall_seconds += self._clock() - begin
        self._ahead.append(self._begin())
        return batch

    def _begin(self) -> tuple[int, concurrent.futures.Future[Batch]]:
        """Begins to read the next batch; returns its index too."""
        index = self._loader.first_read(self._next_index)
        self._next_index = index + 1
        return index, self._threads.submit(self._loader.device_batch, index)

    def close(self) -> None:
        """Ends the threads once they have finished their current batches."""
        self._is_closed = True
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _at(index: int, error: Exception) -> Exception:
    """Returns `error` with the number of the batch and of the step that it stopped.

    Batches count from 0 and steps from 1, as in the metrics.
    """
    if not isinstance(error, (OSError, ValueError)):
        return error  # Not a mistake that a person could correct.
    kind = ValueError if isinstance(error, ValueError) else OSError
    return kind(f"Batch {index}, for step {index + 1}, cannot be made: {error}")


def open_batches(loader: Loader, begin_index: int, read_ahead: int = 4) -> Batches:
    """Returns the batches from `begin_index` on; `read_ahead` are prepared in advance.

    Raises:
      ValueError: `begin_index` is negative, or `read_ahead` is not positive.
    """
    if read_ahead < 1 or begin_index < 0:
        raise ValueError(
            "begin_index must be at least 0 and read_ahead at least 1, got "
            f"begin_index={begin_index}, read_ahead={read_ahead}."
        )
    return Batches(loader, begin_index, read_ahead)


def describe_epochs(num_rows: int, rows: Rows, *, selected: bool = False) -> str:
    """Returns, in words, how many epochs a stage reads.

    Args:
      num_rows: The number of rows that the stage reads.
      rows: Where it reads them from.
      selected: Whether `rows` is a selection of the data.
    """
    of = rows.rows_per_epoch
    if of is None:
        return f"reads {num_rows:,} rows of a stream of unknown length"
    there_are = "were selected" if selected else "there are"
    found = f"reads {num_rows:,} rows of {of:,} that {there_are}"
    if num_rows <= of:
        return f"{found}: {num_rows / of:.2%} of an epoch"
    return f"{found}: {num_rows / of:.2f} epochs, each in an order of its own"
