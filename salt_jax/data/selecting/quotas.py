"""Dividing what is kept among groups, and finding the highest of each.

Dimensions: N sequences, D groups.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.apportionment import apportion

_BLOCK = 1 << 22  # Sequences counted at a time.


def sum_by_group(
    groups: np.ndarray, values: np.ndarray, *, num_groups: int
) -> np.ndarray:
    """Returns the sum of the `values` [N] of each group, float64 [num_groups].

    Args:
      groups: From 0 to `num_groups` - 1, [N].
      values: Numbers, [N].
      num_groups: How many there are.
    """
    totals = np.zeros(num_groups)
    for begin in range(0, len(groups), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        totals += np.bincount(groups[part], values[part], num_groups)
    return totals


def highest_of_groups(
    worth: np.ndarray, groups: np.ndarray, may_be_kept: np.ndarray, count: int
) -> np.ndarray:
    """Returns True for the highest of each group, bool [N].

    Args:
      worth: Real numbers, [N]. Of equal ones the first are the highest.
      groups: The group of each, from 0, [N].
      may_be_kept: Who is left to choose from, bool [N].
      count: How many are chosen, of each group in proportion to what is left of it.
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
    """Returns True for the `count` highest, at least 1; of equal ones the first."""
    place = len(worth) - count
    lowest = np.partition(worth, place)[place]
    is_kept = worth > lowest
    equal = np.flatnonzero(worth == lowest)
    is_kept[equal[: count - np.count_nonzero(is_kept)]] = True
    return is_kept
