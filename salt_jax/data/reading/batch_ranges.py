"""Ranges of batch indices: pairs (FIRST, END) in increasing order, END exclusive.

Batches count from 0. Step N makes its update on batch N - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

Ranges = Sequence[Sequence[int]]  # Pairs.


def check(ranges: Ranges, total: int) -> None:
    """Checks that `ranges` are pairs of indices below `total`, in order and apart.

    Raises:
      ValueError: they are not.
    """
    end = 0
    for pair in ranges:
        is_pair = isinstance(pair, Sequence) and len(pair) == 2
        if not is_pair or not all(type(index) is int for index in pair):
            raise ValueError(
                f"skip_batches has {pair!r}, which is not (FIRST, END): give pairs of "
                "batch indices, as in ((1199, 1200),)."
            )
        if not end <= pair[0] < pair[1]:
            raise ValueError(
                f"skip_batches has {tuple(pair)}, after batch {end}: FIRST must be "
                "below END, and ranges must be in increasing order and apart."
            )
        end = pair[1]
    if end > total:
        raise ValueError(
            f"skip_batches ends at batch {end}, and the experiment has {total}, "
            f"counted from 0: END may be {total} at most."
        )


def contain(ranges: Ranges, index: int) -> bool:
    """Returns whether batch `index` is in one of `ranges`."""
    return any(first <= index < end for first, end in ranges)


def first_outside(ranges: Ranges, index: int) -> int:
    """Returns the first batch from `index` on that is in none of `ranges`."""
    for first, end in ranges:
        if first <= index < end:
            index = end
    return index


def count(ranges: Ranges, begin: int, end: int) -> int:
    """Returns how many of the batches from `begin` to `end`, exclusive, are in them."""
    return sum(last - first for first, last in within(ranges, begin, end))


def within(ranges: Ranges, begin: int, end: int) -> list[tuple[int, int]]:
    """Returns the parts of `ranges` from batch `begin` to `end`, exclusive."""
    cut = [(max(begin, first), min(end, last)) for first, last in ranges]
    return [(first, last) for first, last in cut if first < last]


def before(ranges: Ranges, index: int) -> list[tuple[int, int]]:
    """Returns the parts of `ranges` before batch `index`, joined where they touch."""
    parts: list[tuple[int, int]] = []
    for first, end in ranges:
        if first >= index:
            break
        if parts and parts[-1][1] == first:
            first = parts.pop()[0]
        parts.append((first, min(end, index)))
    return parts


def including(ranges: Ranges, index: int) -> tuple[tuple[int, int], ...]:
    """Returns `ranges` with batch `index` in them, joined where they touch."""
    pairs = {tuple(pair) for pair in ranges} | {(index, index + 1)}
    last = max(end for _, end in pairs)
    return tuple(before(sorted(pairs), last))
