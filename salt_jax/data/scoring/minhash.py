"""MinHash sketches of eight bytes per sequence, for finding near-duplicates.

A shingle is a run of `SHINGLE` tokens. Under a random order of all shingles, two
sequences have the same smallest shingle with probability J, their Jaccard similarity
(the size of the intersection of their shingles over that of the union). A band is a
hash of the smallest shingles under `ORDERS_PER_BAND` orders. So two sequences share at
least one of two bands with probability 1 - (1 - J ** ORDERS_PER_BAND) ** 2. That is
0.89 at J = 0.90, where one token in a hundred differs, and 0.0002 at J = 0.1.

Dimensions: N sequences, L length, S shingles.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.splitmix64 import GOLDEN_GAMMA, MASK_64, mix

SHINGLE = 5  # Tokens.
ORDERS_PER_BAND = 4
NUM_BANDS = 2
_ROWS_AT_A_TIME = 16  # Few enough for the hashes to stay in the L2 cache.


def sketches(tokens_NL: np.ndarray, is_token_NL: np.ndarray) -> np.ndarray:
    """Returns the sketch of each row, which `bands` splits.

    A sketch depends only on the set of shingles. A row with fewer than `SHINGLE` tokens
    has a single, shorter shingle.

    Args:
      tokens_NL: Rows of nonnegative tokens, with padding at the end.
      is_token_NL: False at padding.

    Returns:
      uint64 [N].
    """
    found = np.empty(len(tokens_NL), np.uint64)
    for begin in range(0, len(found), _ROWS_AT_A_TIME):
        rows = slice(begin, begin + _ROWS_AT_A_TIME)
        found[rows] = _sketches(shingles(tokens_NL[rows], is_token_NL[rows]))
    return found


def bands(sketch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two bands of sketches, uint32; near-duplicates mostly share one."""
    sketch = np.asarray(sketch, np.uint64)
    low, high = sketch & np.uint64(0xFFFFFFFF), sketch >> np.uint64(32)
    return low.astype(np.uint32), high.astype(np.uint32)


def shingles(tokens_NL: np.ndarray, is_token_NL: np.ndarray) -> np.ndarray:
    """Returns a hash of each shingle, uint64 [N, S].

    In the padding, the first shingle of the row is repeated.
    """
    missing = max(SHINGLE - tokens_NL.shape[1], 0)
    tokens_NL, is_token_NL = (
        np.pad(x_NL, ((0, 0), (0, missing))) for x_NL in (tokens_NL, is_token_NL)
    )
    # Tokens are numbered from 1, so that none equals padding in a short shingle.
    numbers_NL = (tokens_NL.astype(np.uint64) + np.uint64(1)) * is_token_NL
    num_shingles = tokens_NL.shape[1] - SHINGLE + 1
    sums_NS = numbers_NL[:, :num_shingles] * _FACTORS[0]
    for place in range(1, SHINGLE):
        sums_NS += numbers_NL[:, place : place + num_shingles] * _FACTORS[place]
    hashes_NS = mix(sums_NS, out=sums_NS)
    return np.where(is_token_NL[:, SHINGLE - 1 :], hashes_NS, hashes_NS[:, :1])


def _sketches(shingles_NS: np.ndarray) -> np.ndarray:
    """Returns the bands of the smallest hash under each order, uint64 [N]."""
    found = np.zeros(len(shingles_NS), np.uint64)
    for band in range(NUM_BANDS):
        smallest = np.zeros(len(shingles_NS), np.uint64)
        for order in range(band * ORDERS_PER_BAND, (band + 1) * ORDERS_PER_BAND):
            # The hashes are mixed already, so any other bijection is random enough.
            ordered_NS = (shingles_NS ^ _SEEDS[order]) * _MULTIPLIERS[order]
            smallest = mix(smallest ^ ordered_NS.min(axis=1))
        found |= (smallest >> np.uint64(32)) << np.uint64(32 * band)
    return found


def _constants(count: int, *, seed: int) -> np.ndarray:
    """Returns fixed pseudorandom numbers, the outputs of SplitMix64 for `seed`."""
    steps = [(seed + (i + 1) * GOLDEN_GAMMA) & MASK_64 for i in range(count)]
    return mix(np.array(steps, np.uint64))


# Changing any of these changes all sketches, and so the format of scores.
_NUM_ORDERS = NUM_BANDS * ORDERS_PER_BAND
_FACTORS = _constants(SHINGLE, seed=1) | np.uint64(1)
_SEEDS = _constants(_NUM_ORDERS, seed=2)
_MULTIPLIERS = _constants(_NUM_ORDERS, seed=3) | np.uint64(1)
