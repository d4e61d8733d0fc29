"""The shard files of a prepared split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from array_record.python import array_record_module
from etils import epath

from salt_jax.data.prepared.manifest import Shard
from salt_jax.data.preparing.cut import TokenRange
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.files.reading import sha256_of, sha256_of_file

# One record per chunk allows random access. Compressing such small chunks made them
# larger: 15.0 MB instead of 14.4 MB for random 12-bit tokens.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """A shard, and its counts for the manifest."""

    shard: Shard
    sequences: tuple[int, ...]  # By domain: the sequences with any of its tokens.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """The number of sequences, and how they divide into shards."""

    num_tokens: int
    seq_len: int
    sequences_per_shard: int

    @property
    def count(self) -> int:
        """The number of sequences in all shards."""
        return -(-self.num_tokens // self.seq_len)

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.sequences_per_shard)

    def name(self, index: int) -> str:
        """Returns the file name of a shard."""
        return f"sequences-{index:05}-of-{self.num_shards:05}.array_record"

    def tokens(self, index: int) -> tuple[int, int]:
        """Returns the position of a shard's first token, and one past its last."""
        size = self.sequences_per_shard * self.seq_len
        return index * size, min((index + 1) * size, self.num_tokens)


def write_shard(
    path: epath.Path, pieces: Iterable[TokenRange], *, seq_len: int, num_domains: int
) -> WrittenShard:
    """Writes the sequences of `pieces`, which `cut` yields, to `path`.

    Raises:
      OSError: the disk is full, or the file cannot be written.
    """
    count, first = 0, ""
    by_domain = np.zeros(num_domains, np.int64)
    try:
        writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        for piece in pieces:
            for record in piece.records(seq_len):
                writer.write(record)
                first = first or sha256_of(record)
                count += 1
            by_domain += piece.sequences_by_domain(seq_len, num_domains)
        writer.close()
    except RuntimeError as error:
        raise OSError(
            f"Cannot write {path}: {error}. Make room, and run prepare again."
        ) from error
    shard = Shard(
        name=path.name,
        count=count,
        num_bytes=path.stat().length,
        sha256=sha256_of_file(path),
        first_sha256=first,
    )
    return WrittenShard(shard=shard, sequences=tuple(by_domain.tolist()))


def whole_shards(
    path: epath.Path, shards: Sequence[Shard], workers: WorkerPool
) -> set[str]:
    """Returns the names of those `shards` in a folder that are as they were written.

    Reads all of them, to compare their SHA-256.
    """
    calls = [(shard,) for shard in shards]
    whole = workers.each(_IsWhole(path), calls)
    return {name for name, is_whole in whole if is_whole}


@dataclasses.dataclass(frozen=True)
class _IsWhole:
    path: epath.Path

    def __call__(self, shard: Shard) -> tuple[str, bool]:
        file = self.path / shard.name
        if not file.exists() or file.stat().length != shard.num_bytes:
            return shard.name, False
        return shard.name, sha256_of_file(file) == shard.sha256
