"""The text of each row when several denoisers share an epoch, in closed form.

The shuffled sequences of an epoch are divided into groups of equal size. In a group
each denoiser gets exactly its share of the sequences. Their text is concatenated and
cut into rows of the denoiser's capacity. So all groups have the same number of rows,
every token is in exactly one row of the epoch, and the content of a row is computed
from its number.

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

# The last row of each denoiser in a group is only partly filled. With groups of this
# size that wastes at most 1 row in 256 per denoiser; larger groups would mix less well.
_MIN_GROUP = 256
# Makes the order of rows in a group independent of the order of sequences.
_ROW_ORDER = 0x5851F42D4C957F2D


class RowTexts(NamedTuple):
    """The denoiser of each row, and its text as a range of tokens.

    Ranges are positions in the endless stream of shuffled epochs, padding included.
    """

    kinds: np.ndarray  # int64 [B], indices of denoisers.
    begins: np.ndarray  # int64 [B]
    ends: np.ndarray  # int64 [B]


@dataclasses.dataclass(frozen=True)
class _Group:
    """The sequences and rows of a group, by denoiser."""

    counts: np.ndarray  # int64 [denoisers], sequences.
    rows: np.ndarray  # int64 [denoisers], rows.

    @property
    def num_rows(self) -> int:
        """The number of rows in the group."""
        return int(self.rows.sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPlan:
    """The rows made of the `num_sequences` of an epoch."""

    num_sequences: int
    seq_len: int
    capacities: Sequence[int]  # Tokens of text per row, by denoiser.
    weights: Sequence[int]  # Proportions of sequences, by denoiser.
    seed: int  # Of the order of rows within groups.

    @functools.cached_property
    def group_size(self) -> int:
        """Sequences per group: the smallest multiple of the weights' sum from 256."""
        total = sum(self.weights)
        return total * -(-_MIN_GROUP // total)

    @property
    def num_whole_groups(self) -> int:
        """The number of groups of full size in an epoch."""
        return self.num_sequences // self.group_size

    @functools.cached_property
    def _whole_group(self) -> _Group:
        return self._group(self.group_size)

    @functools.cached_property
    def _last_group(self) -> _Group:
        """The remainder at the end of an epoch, possibly empty."""
        return self._group(self.num_sequences % self.group_size)

    @property
    def rows_per_epoch(self) -> int:
        """The number of rows in an epoch."""
        whole = self.num_whole_groups * self._whole_group.num_rows
        return whole + self._last_group.num_rows

    @property
    def sequences_of_kinds(self) -> np.ndarray:
        """The sequences per epoch of each denoiser, int64 [denoisers]."""
        whole = self.num_whole_groups * self._whole_group.counts
        return whole + self._last_group.counts

    @property
    def fill(self) -> float:
        """The filled share of the rows, for unbroken text.

        Short fragments fill slightly less: their numbers of spans are rounded down.
        """
        rows_of_text = self.sequences_of_kinds * self.seq_len / self.capacities
        return float(np.sum(rows_of_text) / self.rows_per_epoch)

    def texts(self, numbers: np.ndarray) -> RowTexts:
        """Returns the text and the denoiser of the rows `numbers`, int64 [B]."""
        epochs, rows = np.divmod(np.asarray(numbers, np.int64), self.rows_per_epoch)
        groups, slots = np.divmod(rows, self._whole_group.num_rows)
        is_last = groups == self.num_whole_groups
        # Numbered over all epochs, so that each group has its own order of rows.
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
        """Returns the text of the rows at `slots`; positions count from the group."""
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
