"""Batches by index, the same for any number of hosts and after any restart.

Batch i is the rows from i * batch_size to (i + 1) * batch_size of an endless stream of
shuffled epochs, so a batch may hold the end of one epoch and the beginning of the next.
A row is computed from its number, so that opening at any batch costs the same.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.pile import StageData
from salt_jax.data.rows import Rows
from salt_jax.partitioning import Partitioning

_FIELDS = ("tokens_BL", "targets_BL", "weights_BL", "segments_BL", "positions_BL")


class Loader:
    """The batches of what a stage reads, by index. May be read from several threads."""

    def __init__(
        self,
        data: StageData,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        partitioning: Partitioning,
    ):
        """Opens the data.

        Raises:
          FileNotFoundError: the data, its vocabulary or its scores are missing.
          ValueError: the batch does not divide over the mesh; the data was prepared
            otherwise; the scores are of other data.
        """
        shards = partitioning.size("batch")
        if batch_size < 1 or batch_size % shards:
            raise ValueError(
                f"batch_size={batch_size} does not divide over the {shards} parts into "
                f"which the mesh {dict(partitioning.mesh.shape)} splits a batch."
            )
        self.rows: Rows = data.open_rows(seq_len=seq_len, seed=seed)
        self._fields = _FIELDS + ("prefix_BL",) * data.has_prefix
        self._batch_size = batch_size
        self._shape = (batch_size, seq_len)
        self._sharding = partitioning.sharding("batch", "length")

    def row_numbers(self, index: int) -> np.ndarray:
        """Returns the numbers of the rows of batch `index`, int64 [B]."""
        return np.arange(self._batch_size) + index * self._batch_size

    def host_batch(self, index: int, rows: slice | None = None) -> Batch:
        """Returns `rows` of batch `index`, by default all, as numpy arrays."""
        numbers = self.row_numbers(index)
        return self.rows.read(numbers if rows is None else numbers[rows])

    def device_batch(self, index: int) -> Batch:
        """Returns batch `index` on the mesh; reads the rows of this process only."""
        read: dict[tuple[int, int, int], Batch] = {}

        def rows_of(rows: slice) -> Batch:
            # Devices along the model axis hold the same rows.
            key = rows.indices(self._batch_size)
            if key not in read:
                read[key] = self.host_batch(index, rows)
            return read[key]

        def global_array(name: str) -> jax.Array:
            def shard(place: Any) -> np.ndarray:
                return getattr(rows_of(place[0]), name)[:, place[1]]

            return jax.make_array_from_callback(self._shape, self._sharding, shard)

        return Batch(**{name: global_array(name) for name in self._fields})


class Batches(Iterator[Batch]):
    """Consecutive batches on the mesh, made ahead on another thread.

    A context manager: leaving it ends the thread.
    """

    def __init__(self, loader: Loader, begin_index: int, read_ahead: int):
        self.stall_seconds = 0.0  # That `next` has waited so far, in all.
        self._loader = loader
        self._index = begin_index
        self._ready: queue.SimpleQueue[Batch | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(read_ahead)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(
            target=self._make, name="read-ahead", daemon=True
        )
        self._thread.start()

    def __next__(self) -> Batch:
        """Returns the next batch, or raises what kept it from being made."""
        if self._is_closed.is_set():
            raise ValueError("These batches are closed.")
        begin = time.monotonic()
        batch = self._ready.get()
        self.stall_seconds += time.monotonic() - begin
        if isinstance(batch, Exception):
            self.close()
            raise batch
        self._room.release()
        return batch

    def close(self) -> None:
        """Ends the thread, after the batch that it is making."""
        self._is_closed.set()
        self._room.release()
        self._thread.join()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self) -> None:
        try:
            while self._room.acquire() and not self._is_closed.is_set():
                self._ready.put(self._loader.device_batch(self._index))
                self._index += 1
        except Exception as error:  # To be raised where the batch is missed.
            self._ready.put(error)


def open_batches(loader: Loader, begin_index: int, read_ahead: int = 4) -> Batches:
    """Returns the batches from `begin_index` on, `read_ahead` of them made in advance.

    Raises:
      ValueError: nothing would be made in advance, or there is no such batch.
    """
    if read_ahead < 1 or begin_index < 0:
        raise ValueError(
            f"Batches start at 0 or later and are made 1 or more ahead, got "
            f"begin_index={begin_index}, read_ahead={read_ahead}."
        )
    return Batches(loader, begin_index, read_ahead)
