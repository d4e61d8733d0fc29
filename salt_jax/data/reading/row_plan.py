"""Which text each row is made of, when denoisers share it: a closed form.

The sequences of an epoch, in its order, are taken in groups. In a group each denoiser
gets its share of the sequences, exactly, and their text, joined, is cut into rows of
what the denoiser says a row holds. So groups have the same number of rows, every token
is in one row of the epoch, and what a row holds is computed from its number.

Dimensions: B rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from salt_jax.data import permutation
from salt_jax.data.apportionment import apportion

# The last row of a denoiser in a group is not full, which in a group of this size
# costs at most a row in 256 for each denoiser. A larger group would mix less well.
_MIN_GROUP = 256
# Keeps the order of the rows in a group apart from the order of the sequences.
_ROW_ORDER = 0x5851F42D4C957F2D


class RowTexts(NamedTuple):
    """The denoiser and the text of rows; a text is a range of tokens.

    Tokens are counted in the endless stream of shuffled epochs, paddings included.
    """

    kinds: np.ndarray  # int64 [B], indices of denoisers.
    begins: np.ndarray  # int64 [B]
    ends: np.ndarray  # int64 [B]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Consecutive sequences, and the rows that they become."""

    counts: np.ndarray  # int64 [denoisers], sequences of each.
    rows: np.ndarray  # int64 [denoisers], rows of each.

    @property
    def num_rows(self) -> int:
        """How many rows the group becomes."""
        return int(self.rows.sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPlan:
    """How `num_sequences` become the rows of an epoch."""

    num_sequences: int
    seq_len: int
    capacities: Sequence[int]  # Tokens of text in a row, for each denoiser.
    weights: Sequence[int]  # Of the denoisers: their shares of the sequences.
    seed: int  # Decides the order of the rows in a group.

    @functools.cached_property
    def group_size(self) -> int:
        """The sequences of a group: as few as give every denoiser its whole share."""
        total = sum(self.weights)
        return total * -(-_MIN_GROUP // total)

    @property
    def num_whole_groups(self) -> int:
        """How many groups of the full size an epoch has."""
        return self.num_sequences // self.group_size

    @functools.cached_property
    def _whole_group(self) -> _Group:
        return self._group(self.group_size)

    @functools.cached_property
    def _last_group(self) -> _Group:
        """What is left at the end of an epoch, perhaps nothing."""
        return self._group(self.num_sequences % self.group_size)

    @property
    def rows_per_epoch(self) -> int:
        """How many rows the sequences become."""
        whole = self.num_whole_groups * self._whole_group.num_rows
        return whole + self._last_group.num_rows

    @property
    def sequences_of_kinds(self) -> np.ndarray:
        """The sequences of an epoch that each denoiser gets, int64."""
        whole = self.num_whole_groups * self._whole_group.counts
        return whole + self._last_group.counts

    @property
    def fill(self) -> float:
        """The share of the rows' room that text without any breaks would take.

        Short pieces take a little less, since the number of their spans is rounded
        down.
        """
        rows_of_text = self.sequences_of_kinds * self.seq_len / self.capacities
        return float(np.sum(rows_of_text) / self.rows_per_epoch)

    def texts(self, numbers: np.ndarray) -> RowTexts:
        """Returns what the rows with `numbers`, int64 [B], are made of."""
        epochs, rows = np.divmod(np.asarray(numbers, np.int64), self.rows_per_epoch)
        groups, slots = np.divmod(rows, self._whole_group.num_rows)
        is_last = groups == self.num_whole_groups
        # Counted over all epochs, so that each group has a row order of its own.
        orders = epochs * (self.num_whole_groups + 1) + groups
        texts = np.zeros((3, len(rows)), np.int64)
        for group, chosen in (
            (self._whole_group, ~is_last),
            (self._last_group, is_last),
        ):
            if chosen.any():
                texts[:, chosen] = self._texts_of(group, orders[chosen], slots[chosen])
        kinds, begins, ends = texts
        sequences = epochs * self.num_sequences + groups * self.group_size
        firsts = sequences * self.seq_len
        return RowTexts(kinds, firsts + begins, firsts + ends)

    def _texts_of(
        self, group: _Group, orders: np.ndarray, slots: np.ndarray
    ) -> RowTexts:
        """Returns what the rows at `slots` hold, counted from the group's beginning."""
        slots = permutation.shuffled(
            orders * group.num_rows + slots,
            size=group.num_rows,
            seed=self.seed ^ _ROW_ORDER,
        )
        last_rows = np.cumsum(group.rows)
        kinds = np.searchsorted(last_rows, slots, side="right")
        capacities = np.array(self.capacities)[kinds]
        begins = (slots - (last_rows - group.rows)[kinds]) * capacities
        lengths = (group.counts * self.seq_len)[kinds]
        ends = np.minimum(begins + capacities, lengths)
        firsts = (np.cumsum(group.counts) - group.counts)[kinds] * self.seq_len
        return RowTexts(kinds, firsts + begins, firsts + ends)

    def _group(self, size: int) -> _Group:
        counts = apportion(size, np.array(self.weights, np.int64))
        return _Group(counts, -(-counts * self.seq_len // np.array(self.capacities)))
