"""Readers of shards, which are opened on demand and closed when many are open.

A reader holds a file descriptor and the index of its shard, 0.3 MB for 16,384 records.
So a process keeps only the most recently used readers open, over all its datasets.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from array_record.python import array_record_module
from etils import epath

from salt_jax.files import buckets
from salt_jax.files.failures import raise_if_machine
from salt_jax.files.reading import sha256_of

_NUM_THREADS = 64  # More than the CPU cores: they mostly wait for storage.
# No read-ahead, because access is random. No prefetch of the footer either: it would
# read 1 MB for an index of 0.2 MB.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"


class _UnreadableError(Exception):
    """A shard cannot be read; the message says why in a few words."""


@dataclasses.dataclass(frozen=True)
class Retries:
    """The pauses between tries: long enough for a file server to recover."""

    seconds: tuple[float, ...] = (0.25, 1.0, 2.0)
    sleep: Callable[[float], None] = time.sleep


class OpenReaders:
    """The open readers, least recently used first. Thread-safe."""

    def __init__(self, limit: int = 256) -> None:
        """Keeps at most `limit` readers open."""
        self._limit = limit
        self._lock = threading.Lock()
        self._readers: dict[ShardReader, None] = {}  # In order of last use.

    def add(self, reader: ShardReader) -> None:
        """Marks a reader as just used, and closes the oldest ones beyond the limit."""
        with self._lock:
            self._readers.pop(reader, None)
            self._readers[reader] = None
            too_many = []
            while len(self._readers) > self._limit:
                too_many.append(next(iter(self._readers)))
                del self._readers[too_many[-1]]
        for oldest in too_many:
            oldest.close()


class BytesRead:
    """The bytes of all records that were read. Thread-safe."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, records: Sequence[bytes]) -> None:
        """Adds the sizes of records."""
        size = sum(map(len, records))
        with self._lock:
            self.total += size


# Shared by all datasets of this process. Threads start on demand.
threads = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "shards")
OPEN_READERS = OpenReaders()
BYTES_READ = BytesRead()


class ShardReader:
    """The records of one shard. Thread-safe; threads take turns."""

    def __init__(
        self,
        path: epath.Path,
        *,
        count: int,
        num_bytes: int,
        first_sha256: str,
        sha256: str,
        retries: Retries = Retries(),
        open_readers: OpenReaders = OPEN_READERS,
    ):
        """Does not open the file yet.

        Args:
          path: The ArrayRecord file. If it is in a bucket, a local copy is read.
          count: The number of records that it should hold.
          num_bytes: The size that it should have.
          first_sha256: The SHA-256 that its first record should have.
          sha256: The SHA-256 that it should have, compared when it is copied.
          retries: The pauses between tries to read.
          open_readers: The readers among which this one counts while it is open.
        """
        self.path = path
        self._count = count
        self._num_bytes = num_bytes
        self._first_sha256 = first_sha256
        self._is_checked = False
        self._sha256 = sha256
        self._retries = retries
        self._open_readers = open_readers
        # The readers of the library are not documented as thread-safe.
        self._lock = threading.Lock()
        self._reader: Any = None

    def read(self, places: Sequence[int]) -> list[bytes]:
        """Returns the records at `places` in the shard.

        A failed read is retried a few times; each try reopens the file.

        Raises:
          ValueError: the shard is missing, damaged or another one at every try.
          OSError: the storage fails at every try.
        """
        for seconds in (*self._retries.seconds, None):
            try:
                return self._try_to_read(list(places))
            except _UnreadableError as error:
                what, cause = str(error), error
            if seconds is not None:
                self._retries.sleep(seconds)
        self._check_storage(cause)
        raise ValueError(
            f"{self.path} {what}, after {len(self._retries.seconds) + 1} tries: fetch "
            "it again, or check the whole split with prepare --verify."
        )

    def close(self) -> None:
        """Closes the file until the next read."""
        with self._lock:
            self._reader = None

    def _try_to_read(self, places: list[int]) -> list[bytes]:
        with self._lock:
            try:
                if self._reader is None:
                    self._reader = self._open()
                records = self._reader.read(places)
                # For a file that was truncated the library returns empty records.
                if not all(records):
                    raise _UnreadableError("is damaged (it was cut short while open)")
            except (_UnreadableError, OSError, RuntimeError) as error:
                self._reader = None
                buckets.forget_copy(self.path, sha256=self._sha256)
                raise _UnreadableError(_in_few_words(error)) from error
        # After releasing the lock, because this may close another reader.
        self._open_readers.add(self)
        BYTES_READ.add(records)
        return records

    def _check_storage(self, cause: _UnreadableError) -> None:
        """Raises OSError if the storage failed, not the file."""
        doing = f"Reading {self.path}"
        raise_if_machine(cause, doing)
        try:  # The library does not always say why.
            with self.path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise_if_machine(error, doing)

    def _open(self) -> Any:
        path = buckets.local_copy(self.path, sha256=self._sha256)
        size = path.stat().length
        if size != self._num_bytes:
            raise _UnreadableError(
                f"has {size:,} bytes and should have {self._num_bytes:,}"
            )
        reader = array_record_module.ArrayRecordReader(str(path), _OPTIONS)
        if not reader.ok():
            reader.read([0])  # Raises an error with the reason.
        found = reader.num_records()
        if found != self._count:
            raise _UnreadableError(
                f"holds {found} sequences and should hold {self._count}"
            )
        if not self._is_checked:
            if sha256_of(reader.read([0])[0]) != self._first_sha256:
                raise _UnreadableError(
                    "is another shard: its first sequence is not the one whose SHA-256 "
                    "the manifest has"
                )
            self._is_checked = True
        return reader


def _in_few_words(error: Exception) -> str:
    if isinstance(error, _UnreadableError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"is damaged ({' '.join(str(error).split())[:200]})"
