"""The second pass of an external sort: shards, and a file that marks each as done."""

from __future__ import annotations

import dataclasses

from etils import epath

from salt_jax.data.preparing.cut import cut
from salt_jax.data.preparing.merge import MergePlan
from salt_jax.data.preparing.shards import (
    ShardLayout,
    WrittenShard,
    whole_shards,
    write_shard,
)
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import name_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteShard:
    """Writes a shard, and then the JSON file that marks it as finished."""

    folder: epath.Path
    order: MergePlan
    layout: ShardLayout
    num_domains: int

    def __call__(self, index: int) -> tuple[int, WrittenShard]:
        """Writes the shard `index`; returns both.

        Raises:
          OSError: the disk is full, or a file cannot be written.
        """
        begin, end = self.layout.tokens(index)
        seq_len = self.layout.seq_len
        name = self.layout.name(index)
        path = self.folder / "shards" / name
        token_ranges = self.order.token_ranges(begin, end)
        written = write_shard(
            path,
            cut(token_ranges, begin=begin, end=end, seq_len=seq_len),
            seq_len=seq_len,
            num_domains=self.num_domains,
        )
        name_file(path, self.folder / "split" / name)
        write_record(self._report(index), dataclasses.asdict(written))
        return index, written

    def done(self, workers: WorkerPool) -> dict[int, WrittenShard]:
        """Returns the finished shards by index; deletes all other files.

        Reads them, to compare their SHA-256.

        Raises:
          ValueError: the report of a shard is damaged.
        """
        reports = {i: self._report(i) for i in range(self.layout.num_shards)}
        written = {
            index: read_record(file, WrittenShard, remedy="remove it")
            for index, file in reports.items()
            if file.exists()
        }
        folder = self.folder / "split"
        whole = whole_shards(folder, [x.shard for x in written.values()], workers)
        for file in folder.iterdir():
            if file.name not in whole:
                file.unlink()
        return {i: one for i, one in written.items() if one.shard.name in whole}

    def _report(self, index: int) -> epath.Path:
        return self.folder / "shards" / f"{self.layout.name(index)}.json"
