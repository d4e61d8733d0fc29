"""The order of a split: every document has a key of its own, and they are sorted.

A key is computed from where the document stands in the corpus, so documents find their
place without anyone holding, or even counting, all of them.
"""

from __future__ import annotations

import numpy as np

_MASK_64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def shuffle_keys(seed: int, part_index: int, numbers: np.ndarray) -> np.ndarray:
    """Returns the key of each document; equal ones go by part, then by number.

    Args:
      seed: Decides the order.
      part_index: Of the part that the documents are from.
      numbers: int [N], of their records in it.

    Returns:
      uint64 [N], spread evenly over all that there are.
    """
    # One mixing a component: no sum of two components stands for another pair.
    part_key = _mix(_constant(seed) ^ _mix(_constant(part_index)))
    return _mix(part_key ^ _mix(numbers.astype(np.uint64) + _constant(0)))


def _constant(number: int) -> np.ndarray:
    return np.array([(number + 1) * _GOLDEN & _MASK_64], np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatters 64-bit numbers; the finaliser of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
