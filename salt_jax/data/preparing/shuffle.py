"""The order of a split: every document has a key of its own, and they are sorted.

A key is computed from where the document stands in the corpus, so documents find their
place without anyone holding, or even counting, all of them.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.splitmix64 import GOLDEN_GAMMA, MASK_64, mix


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
    part_key = mix(_constant(seed) ^ mix(_constant(part_index)))
    return mix(part_key ^ mix(numbers.astype(np.uint64) + _constant(0)))


def _constant(number: int) -> np.ndarray:
    return np.array([(number + 1) * GOLDEN_GAMMA & MASK_64], np.uint64)
