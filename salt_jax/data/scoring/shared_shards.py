"""Work sharing over a folder of shards, among any number of processes, without locks.

The processes need not know of each other. Starting a shard leaves a partial file, which
tells the others to start a different one. It is not a lock: once every missing shard
has been started, shards are started again, because their process may be slow or dead.
The first process to write a shard wins.
"""

from __future__ import annotations

import collections
import uuid
from collections.abc import Sequence

from etils import epath

from salt_jax.files.writing import write_file

_PARTIAL = ".partial"


class SharedShards:
    """One process' view of the shards in a folder."""

    def __init__(self, path: epath.Path, names: Sequence[str]):
        self._path = path
        self._names = names  # The file name of each shard.
        self._writer = uuid.uuid4().hex  # Makes the names of partial files unique.
        self._taken: set[int] = set()

    def missing(self) -> list[int]:
        """Returns the shards that are still to be written."""
        return self._missing(self._listed())

    def take(self, process: int = 0, num_processes: int = 1) -> int | None:
        """Returns the next shard to make and marks it as started; None at the end.

        Shards that are written, or that this process took before, are skipped. Shards
        that nobody has started come first: those of this process (every
        `num_processes`-th), then those of others, from the last. After them come
        started shards, those with the fewest starts first.
        """
        listed = self._listed()
        begun = collections.Counter(
            name.rsplit(".", 2)[0] for name in listed if name.endswith(_PARTIAL)
        )

        def order(shard: int) -> tuple[int, bool, int]:
            is_own = shard % num_processes == process
            place = shard if is_own else -shard
            return begun[self._names[shard]], not is_own, place

        left = set(self._missing(listed)) - self._taken
        shard = min(left, key=order, default=None)
        if shard is not None:
            self._taken.add(shard)
            self._partial(shard).touch()
        return shard

    def is_written(self, shard: int) -> bool:
        """Returns whether any process has written a shard."""
        return (self._path / self._names[shard]).exists()

    def write(self, shard: int, contents: bytes) -> None:
        """Writes the file of a shard, unless another process already has."""
        try:
            if not self.is_written(shard):
                write_file(self._path / self._names[shard], contents)
        except FileNotFoundError:
            # Another process wrote the last shard and removed our temporary file.
            if not self.is_written(shard):
                raise
        self._partial(shard).unlink(missing_ok=True)

    def clean(self) -> None:
        """Removes partial files, once all shards are written."""
        names = set(self._names)
        for name in self._listed():
            if name.endswith(_PARTIAL) and name.rsplit(".", 2)[0] in names:
                (self._path / name).unlink(missing_ok=True)

    def _listed(self) -> list[str]:
        return [file.name for file in self._path.iterdir()]

    def _missing(self, listed: list[str]) -> list[int]:
        present = set(listed)
        return [i for i, name in enumerate(self._names) if name not in present]

    def _partial(self, shard: int) -> epath.Path:
        return self._path / f"{self._names[shard]}.{self._writer}{_PARTIAL}"
