"""Keeps the best sequences of each group, in proportion to the groups' sizes.

Dimensions: N sequences.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.apportionment import apportion

_BLOCK = 1 << 22  # Sequences counted at a time.


def sum_by_group(
    groups: np.ndarray, values: np.ndarray, *, num_groups: int
) -> np.ndarray:
    """Returns the sum of `values` over each group, float64 [num_groups].

    Args:
      groups: The group of each value, from 0 to `num_groups` - 1, [N].
      values: Numbers, [N].
      num_groups: The number of groups.
    """
    totals = np.zeros(num_groups)
    for begin in range(0, len(groups), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        totals += np.bincount(groups[part], values[part], num_groups)
    return totals


def highest_of_groups(
    worth: np.ndarray, groups: np.ndarray, may_be_kept: np.ndarray, count: int
) -> np.ndarray:
    """Returns a mask, bool [N], of the best `count` sequences, divided over groups.

    Each group keeps a number in proportion to how many of it may be kept.

    Args:
      worth: Real numbers, [N]. Ties go to the first.
      groups: The group of each sequence, from 0, [N].
      may_be_kept: The sequences to choose from, bool [N].
      count: The total number to keep.
    """
    num_groups = int(groups.max()) + 1
    sizes = sum_by_group(groups, may_be_kept, num_groups=num_groups)
    quotas = apportion(count, sizes.astype(np.int64))
    is_kept = np.zeros(len(worth), bool)
    for group in np.flatnonzero(quotas):
        members = may_be_kept & (groups == group)
        is_kept[members] = _highest(worth[members], quotas[group])
    return is_kept


def _highest(worth: np.ndarray, count: int) -> np.ndarray:
    """Returns a mask of the `count` (at least 1) highest; ties go to the first."""
    place = len(worth) - count
    lowest = np.partition(worth, place)[place]
    is_kept = worth > lowest
    equal = np.flatnonzero(worth == lowest)
    is_kept[equal[: count - np.count_nonzero(is_kept)]] = True
    return is_kept
