"""Shards that are opened when they are read, and closed when many others are.

A reader holds one file descriptor and the places of all records of its shard, 0.3 MB
for 16,384 of them, so a process keeps the last used ones of all its datasets.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Sequence
from typing import Any

from array_record.python import array_record_module
from etils import epath

# Between the tries, as long as a file server takes to come back.
RETRY_SECONDS = (0.25, 1.0, 2.0)
_MAX_OPEN = 256
_NUM_THREADS = 64  # They wait for storage, so there may be more than processors.
# Nothing is read ahead: the next record is somewhere else. Nor is a part of the file
# read before it is known where the index of the records is: 1 MB, of which 0.2 count.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"


class _UnreadableError(Exception):
    """What is wrong with a shard, in a few words."""


class ShardReader:
    """The records of one shard. May be read from several threads, in turns."""

    def __init__(self, path: epath.Path, *, count: int, num_bytes: int):
        """Opens nothing yet.

        Args:
          path: Of an ArrayRecord file.
          count: How many records it should hold.
          num_bytes: How long it should be.
        """
        self.path = path
        self._count = count
        self._num_bytes = num_bytes
        # The library's readers promise nothing about threads.
        self._lock = threading.Lock()
        self._reader: Any = None

    def read(self, places: Sequence[int]) -> list[bytes]:
        """Returns the records at `places` in the shard.

        What fails is tried again, each time with the file opened anew.

        Raises:
          ValueError: the shard is missing, damaged or of another size, at every try.
        """
        for seconds in (*RETRY_SECONDS, None):
            try:
                return self._try_to_read(list(places))
            except _UnreadableError as error:
                what = str(error)
            if seconds is not None:
                time.sleep(seconds)
        raise ValueError(
            f"{self.path} {what}, after {len(RETRY_SECONDS) + 1} tries: fetch it again,"
            " or find what else is wrong with prepare --verify."
        )

    def close(self) -> None:
        """Closes the file until it is read again."""
        with self._lock:
            self._reader = None

    def _try_to_read(self, places: list[int]) -> list[bytes]:
        with self._lock:
            try:
                if self._reader is None:
                    self._reader = self._open()
                records = self._reader.read(places)
                # For a file that became shorter the library returns no bytes.
                if not all(records):
                    raise _UnreadableError("is damaged (it was cut short while open)")
            except (_UnreadableError, OSError, RuntimeError) as error:
                self._reader = None
                raise _UnreadableError(_in_few_words(error)) from error
        # Only now that it is open, and not while it is locked: this closes another.
        _last_used.add(self)
        return records

    def _open(self) -> Any:
        size = self.path.stat().length
        if size != self._num_bytes:
            raise _UnreadableError(
                f"has {size:,} bytes and should have {self._num_bytes:,}"
            )
        reader = array_record_module.ArrayRecordReader(str(self.path), _OPTIONS)
        if not reader.ok():
            reader.read([0])  # Raises what is wrong.
        found = reader.num_records()
        if found != self._count:
            raise _UnreadableError(
                f"holds {found} sequences and should hold {self._count}"
            )
        return reader


def _in_few_words(error: Exception) -> str:
    if isinstance(error, _UnreadableError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"is damaged ({' '.join(str(error).split())[:200]})"


class _LastUsed:
    """The readers that may be open, the last used one at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[ShardReader, None] = {}  # Keeps its order.

    def add(self, reader: ShardReader) -> None:
        """Puts a reader at the end, and closes the first ones if there are too many."""
        with self._lock:
            self._readers.pop(reader, None)
            self._readers[reader] = None
            too_many = []
            while len(self._readers) > _MAX_OPEN:
                too_many.append(next(iter(self._readers)))
                del self._readers[too_many[-1]]
        for oldest in too_many:
            oldest.close()


# Of this process: what all datasets share. No thread begins before it is needed.
threads = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "shards")
_last_used = _LastUsed()
