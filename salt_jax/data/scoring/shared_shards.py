"""A folder of shards that any number of processes fill, and none waits for another.

The processes may know of each other, or not. Beginning a shard leaves a partial file of
its name, a hint to the others to begin another one. It is not a lock: when only shards
that somebody has begun are left, they are made again, since who began them may be slow,
or dead. The first to write a shard wins.
"""

from __future__ import annotations

import collections
import uuid
from collections.abc import Sequence

import numpy as np
from etils import epath

_PARTIAL = ".partial"


class SharedShards:
    """The shards of one folder, as one process writes them."""

    def __init__(self, path: epath.Path, names: Sequence[str]):
        self._path = path
        self._names = names  # The file of each shard.
        self._writer = uuid.uuid4().hex  # So that no two writers have one partial file.
        self._taken: set[int] = set()

    def missing(self) -> list[int]:
        """Returns the shards that are still to be written."""
        return self._missing(self._listed())

    def take(self, process: int = 0, num_processes: int = 1) -> int | None:
        """Returns a shard to make next, and marks it as begun; None if there is none.

        There is none when each is written, or was taken by this process before.
        First come those that nobody has begun: the process' own, which are each
        `num_processes`-th, and then the others', from the far end. Last come those that
        others have begun, the ones that fewest have.
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
        """Returns whether a shard is written, by whomever."""
        return (self._path / self._names[shard]).exists()

    def write(self, shard: int, rows: np.ndarray) -> None:
        """Writes a shard whole, unless another process already has."""
        partial = self._partial(shard)
        if self.is_written(shard):
            partial.unlink(missing_ok=True)
            return
        with partial.open("wb") as file:
            np.save(file, rows)
        try:
            partial.replace(self._path / self._names[shard])
        except FileNotFoundError:  # Another has written the last shard, and cleaned.
            if not self.is_written(shard):
                raise

    def clean(self) -> None:
        """Removes what is left of shards begun in vain, now that all are written."""
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
