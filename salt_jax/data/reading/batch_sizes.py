"""Batch sizes that change at steps known in advance.

Rows are counted by adding up the sizes of all batches before, so none is skipped and
none is read twice. Batch i counts from 0 and is that of step i + 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

Sizes = Sequence[tuple[int, int]]  # (FIRST, SIZE): SIZE rows from batch FIRST on.

MOST_SIZES = 8  # Each size is a program of its own, compiled before the first step.


def fewest_microbatches(rows: int, largest: int, count: int) -> int:
    """Returns the fewest microbatches of `rows` that need no more memory.

    Args:
      rows: The rows of a batch.
      largest: The rows of the largest batch.
      count: The microbatches of the largest batch.
    """
    return -(-rows * count // largest)


@runtime_checkable
class BatchSizes(Protocol):
    """The interface of batch sizes: the same at each call, on every host."""

    def changes(self, total_steps: int) -> Sizes:
        """Returns the sizes of the first `total_steps` batches, as in `Ramp.sizes`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
    """Sizes of batches: each holds from a batch on, until the next one does."""

    sizes: Sizes  # Pairs (FIRST, SIZE), as in ((0, 256), (2000, 512)).

    def __post_init__(self):
        joined: list[tuple[int, int]] = []
        for pair in self.sizes:
            if (
                not isinstance(pair, Sequence)
                or len(pair) != 2
                or any(type(x) is not int for x in pair)
            ):
                raise ValueError(
                    f"Batch sizes have {pair!r}, which is not (FIRST, SIZE): give "
                    "pairs of integers, as in ((0, 256), (2000, 512))."
                )
            first, size = pair
            if first <= joined[-1][0] if joined else first != 0:
                raise ValueError(
                    f"Batch sizes have {tuple(pair)} out of order: the first pair is "
                    "of batch 0, and each of a later batch than the one before."
                )
            if size < 1:
                raise ValueError(f"batch_size must be positive, got {size}.")
            if not joined or joined[-1][1] != size:
                joined.append((first, size))
        if not joined:
            raise ValueError("Batch sizes are empty: give a pair, as in ((0, 256),).")
        object.__setattr__(self, "sizes", tuple(joined))

    @classmethod
    def of(cls, batch_size: int | BatchSizes, total_steps: int) -> Ramp:
        """Returns the sizes of the batches of an experiment, up to its last step.

        Raises:
          ValueError: it is neither an integer nor batch sizes, or they are not valid.
        """
        if isinstance(batch_size, BatchSizes):
            ramp = cls(sizes=batch_size.changes(total_steps))
            # A size that no step reads is not the largest, and need not divide.
            return cls(sizes=[pair for pair in ramp.sizes if pair[0] < total_steps])
        if type(batch_size) is not int:
            written = ""
            if isinstance(batch_size, float) and float(batch_size).is_integer():
                written = f": write {int(batch_size)}"
            raise ValueError(
                f"Experiment.batch_size must be an integer or batch sizes such as "
                f"Ramp, got {batch_size!r}{written}."
            )
        return cls(sizes=((0, batch_size),))

    def changes(self, total_steps: int) -> Sizes:
        """Returns `sizes`; see `BatchSizes`."""
        del total_steps
        return self.sizes

    @property
    def value(self) -> int | Ramp:
        """The size if there is but one, otherwise these sizes."""
        return self.sizes[0][1] if len(self.sizes) == 1 else self

    def size(self, index: int) -> int:
        """Returns the number of rows of batch `index`."""
        return next(size for first, size in reversed(self.sizes) if first <= index)

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yields FIRST, END and SIZE of the batches from `begin` to `end`, exclusive.

        The last size has no end.
        """
        ends = [first for first, _ in self.sizes[1:]] + [max(end, self.sizes[-1][0])]
        for (first, size), last in zip(self.sizes, ends, strict=True):
            if max(first, begin) < min(last, end):
                yield max(first, begin), min(last, end), size

    def rows(self, begin: int, end: int) -> int:
        """Returns the number of rows of batches from `begin` to `end`, exclusive."""
        return sum(
            (last - first) * size for first, last, size in self.pieces(begin, end)
        )

    def distinct(self, begin: int, end: int) -> list[int]:
        """Returns the sizes of the batches from `begin` to `end`, exclusive, sorted."""
        return sorted({size for *_, size in self.pieces(begin, end)})
