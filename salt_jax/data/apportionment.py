"""Whole numbers in given proportions, by the method of largest remainders.

Dimensions: P parts.
"""

from __future__ import annotations

import math

import numpy as np


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Returns whole numbers that add up to `total`, in proportion to `weights`.

    Each is its exact quota rounded down or up. What is left after rounding down goes
    to the largest remainders; of equal remainders, to the first. Integer weights are
    divided without rounding errors, others in float64.

    Args:
      total: What is divided, at least 0.
      weights: int64 or float64 [P], not negative, with a positive sum.

    Returns:
      int64 [P].
    """
    if np.issubdtype(weights.dtype, np.integer):
        floors, remainders = np.divmod(total * weights, weights.sum())
    else:
        shares = weights / math.fsum(weights)
        floors, remainders = np.divmod(total * shares, 1.0)
    counts = floors.astype(np.int64)
    left = total - int(counts.sum())
    counts[np.argsort(-remainders, kind="stable")[:left]] += 1
    return counts
