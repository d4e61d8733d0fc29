"""Prepared text: sequences that can be read in any order, by id.

Dimensions: N sequences, L length.
"""

from __future__ import annotations

import threading

import numpy as np
from array_record.python import array_record_module
from etils import epath

from salt_jax.data import sequences
from salt_jax.data.manifest import Manifest, Shard
from salt_jax.data.sequences import Sequences

# Nothing is read ahead: the next sequence is somewhere else.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class PreparedDataset:
    """One prepared split. May be read from several threads."""

    def __init__(self, path: epath.PathLike, manifest: Manifest):
        self.path = epath.Path(path)
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        # The readers promise nothing about threads.
        self._lock = threading.Lock()
        self._readers = [_open_shard(self.path, shard) for shard in manifest.shards]
        counts = [shard.count for shard in manifest.shards]
        self._begins = np.cumsum([0, *counts])
        if self._begins[-1] != manifest.count:
            raise ValueError(
                f"The manifest of {path} counts {manifest.count} sequences, and its "
                f"shards {self._begins[-1]}: prepare it again."
            )

    @classmethod
    def open(cls, path: epath.PathLike) -> PreparedDataset:
        """Opens one split, a folder that `prepare` wrote, and counts its shards.

        Raises:
          FileNotFoundError: there is no such folder, or a shard of it is missing.
          ValueError: the manifest or a shard is damaged, or of another version.
        """
        path = epath.Path(path)
        return cls(path, Manifest.read(path))

    def __len__(self) -> int:
        return self.manifest.count

    def read(self, ids: np.ndarray) -> Sequences:
        """Returns the sequences with `ids`, int [N], in that order.

        Raises:
          ValueError: there is no such id, or a shard is damaged.
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
        )

    def _read_records(self, ids: np.ndarray) -> list[bytes]:
        shard_of = np.searchsorted(self._begins, ids, side="right") - 1
        records: list[bytes] = [b""] * len(ids)
        for shard in np.unique(shard_of):
            (rows,) = np.nonzero(shard_of == shard)
            places = (ids[rows] - self._begins[shard]).tolist()
            for row, record in zip(rows, self._read_shard(shard, places), strict=True):
                records[row] = record
        return records

    def _read_shard(self, shard: int, places: list[int]) -> list[bytes]:
        try:
            with self._lock:
                return self._readers[shard].read(places)
        except RuntimeError as error:
            path = self.path / self.manifest.shards[shard].name
            raise ValueError(
                f"{path} is damaged: delete {self.path} and prepare it again."
            ) from error


def _open_shard(
    folder: epath.Path, shard: Shard
) -> array_record_module.ArrayRecordReader:
    path = folder / shard.name
    if not path.exists():
        raise FileNotFoundError(
            f"No shard at {path}: delete {folder} and prepare it again."
        )
    reader = array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)
    if reader.num_records() != shard.count:
        raise ValueError(
            f"{path} holds {reader.num_records()} sequences, and should hold "
            f"{shard.count}: delete {folder} and prepare it again."
        )
    return reader
