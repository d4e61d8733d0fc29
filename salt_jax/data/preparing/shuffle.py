"""Shuffles documents by sorting them by pseudorandom keys.

A key is computed from a document's place in the corpus. So no process needs to hold, or
even count, all documents.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.splitmix64 import GOLDEN_GAMMA, MASK_64, mix


def shuffle_keys(seed: int, part_index: int, numbers: np.ndarray) -> np.ndarray:
    """Returns the shuffle key of each document. Ties are broken by part, then number.

    Args:
      seed: Of the shuffle.
      part_index: The part that the documents belong to.
      numbers: int [N], the numbers of their records in the part.

    Returns:
      uint64 [N], uniform over all 64-bit numbers.
    """
    # Each component is mixed on its own: different pairs never give the same sum.
    part_key = mix(_constant(seed) ^ mix(_constant(part_index)))
    return mix(part_key ^ mix(numbers.astype(np.uint64) + _constant(0)))


def _constant(number: int) -> np.ndarray:
    return np.array([(number + 1) * GOLDEN_GAMMA & MASK_64], np.uint64)
