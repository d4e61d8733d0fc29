"""A prepared split: sequences with random access by id.

Dimensions: N sequences, L length.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from etils import epath

from salt_jax.data.prepared import sequences
from salt_jax.data.prepared.manifest import Manifest
from salt_jax.data.prepared.readers import (
    OPEN_READERS,
    OpenReaders,
    Retries,
    ShardReader,
    threads,
)
from salt_jax.data.prepared.sequences import Sequences
from salt_jax.files.writing import is_local


class PreparedDataset:
    """One prepared split. Thread-safe."""

    def __init__(
        self,
        path: epath.PathLike,
        manifest: Manifest,
        *,
        retries: Retries = Retries(),
        open_readers: OpenReaders = OPEN_READERS,
    ):
        self.path = epath.Path(path)
        self.manifest = manifest
        self._retries = retries
        self._open_readers = open_readers
        self._readers: dict[int, ShardReader] = {}
        counts = [shard.count for shard in manifest.shards]
        self._begins = np.cumsum([0, *counts])
        if self._begins[-1] != manifest.count:
            raise ValueError(
                f"The manifest of {path} counts {manifest.count} sequences, and its "
                f"shards {self._begins[-1]}: prepare it again."
            )
        self._check_shards()

    @classmethod
    def open(
        cls,
        path: epath.PathLike,
        *,
        retries: Retries = Retries(),
        open_readers: OpenReaders = OPEN_READERS,
    ) -> PreparedDataset:
        """Opens a split, which is a folder that `prepare` wrote.

        Args:
          path: The folder. Its shards are opened when they are first read.
          retries: The pauses between tries to read a shard.
          open_readers: The readers among which those of this split count.

        Raises:
          FileNotFoundError: there is no such folder, or a shard is missing.
          ValueError: the manifest is damaged, or of another version; or a shard has
            another size.
        """
        path = epath.Path(path)
        manifest = Manifest.read(path)
        return cls(path, manifest, retries=retries, open_readers=open_readers)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the manifest, which contains that of every shard."""
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return self.manifest.count

    def read(self, ids: np.ndarray) -> Sequences:
        """Returns the sequences `ids`, int [N], in that order.

        Raises:
          ValueError: there is no such id; or a shard is missing or damaged, at every
            one of several tries.
        """
        ids = np.asarray(ids, np.int64)
        unknown = ids[(ids < 0) | (ids >= len(self))]
        if len(unknown):
            raise ValueError(
                f"No sequence {unknown[0]} in {self.path}: ids are 0 to "
                f"{len(self) - 1}."
            )
        manifest = self.manifest
        return sequences.from_records(
            self._read_records(ids),
            seq_len=manifest.seq_len,
            dtype=sequences.token_dtype(manifest.vocabulary_size),
            pad_id=manifest.pad_id,
            begin_id=manifest.begin_id,
        )

    def _read_records(self, ids: np.ndarray) -> list[bytes]:
        if not len(ids):
            return []
        shard_of = np.searchsorted(self._begins, ids, side="right") - 1
        # Rows are grouped by shard, so that each shard is read once.
        order = np.argsort(shard_of, kind="stable")
        shards, begins = np.unique(shard_of[order], return_index=True)
        rows_of = np.split(order, begins[1:])
        places_of = [
            (ids[rows] - self._begins[shard]).tolist()
            for shard, rows in zip(shards, rows_of, strict=True)
        ]
        readers = [self._reader(shard) for shard in shards.tolist()]
        # A single shard is read by this thread, without waiting for the pool.
        read_all = threads.map if len(readers) > 1 else map
        records_of = read_all(ShardReader.read, readers, places_of)
        records: list[bytes] = [b""] * len(ids)
        for rows, found in zip(rows_of, records_of, strict=True):
            for row, record in zip(rows.tolist(), found, strict=True):
                records[row] = record
        return records

    def _reader(self, shard: int) -> ShardReader:
        described = self.manifest.shards[shard]
        # Two threads may create a reader at once; all use the first.
        return self._readers.get(shard) or self._readers.setdefault(
            shard,
            ShardReader(
                self.path / described.name,
                count=described.count,
                num_bytes=described.num_bytes,
                first_sha256=described.first_sha256,
                sha256=described.sha256,
                retries=self._retries,
                open_readers=self._open_readers,
            ),
        )

    def _check_shards(self) -> None:
        """Compares the size of each shard.

        Raises:
          FileNotFoundError: a shard is missing.
          ValueError: a shard has another size.
        """
        sizes = _sizes(self.path)
        shards = self.manifest.shards
        missing = [shard.name for shard in shards if shard.name not in sizes]
        if missing:
            others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            raise FileNotFoundError(
                f"No shard at {self.path / missing[0]}{others}: fetch what is missing, "
                f"or delete {self.path} and prepare it again."
            )
        wrong = [shard for shard in shards if shard.num_bytes != sizes[shard.name]]
        if wrong:
            others = f" {len(wrong) - 1} others are wrong too." if wrong[1:] else ""
            raise ValueError(
                f"{self.path / wrong[0].name} is damaged: it has "
                f"{sizes[wrong[0].name]:,} bytes and should have "
                f"{wrong[0].num_bytes:,}.{others} Fetch it again, or delete "
                f"{self.path} and prepare it again."
            )


def _sizes(folder: epath.Path) -> dict[str, int]:
    """Returns the size of each file in a folder by name."""
    if not is_local(folder):
        files = list(folder.iterdir())
        stats = threads.map(lambda file: file.stat(), files)
        return {x.name: s.length for x, s in zip(files, stats, strict=True)}
    with os.scandir(folder) as entries:
        # A link to a missing file is not a file.
        return {x.name: x.stat().st_size for x in entries if x.is_file()}
