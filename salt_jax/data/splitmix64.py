"""The mixing function of the SplitMix64 random number generator [1], for arrays.

[1] G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, 2014.
"""

from __future__ import annotations

import numpy as np

MASK_64 = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # The odd number nearest to 2**64 / golden ratio.


def mix(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns `x`, uint64, with its bits mixed: a bijection of the 64-bit numbers.

    Args:
      x: uint64.
      out: Where the result goes, which may be `x` itself; by default a new array.
    """
    out = np.bitwise_xor(x, x >> np.uint64(30), out=out)
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out
