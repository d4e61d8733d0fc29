"""Seeded shuffles in closed form: each element is computed, and nothing is stored.

A Feistel network [1] is a bijection on numbers of 2 * h bits, whatever its round
function. Results outside [0, size) go through the network again until they fall inside,
which gives a bijection on that range ("cycle walking" [2]).

[1] M. Luby, C. Rackoff, How to construct pseudorandom permutations, 1988.
[2] J. Black, P. Rogaway, Ciphers with arbitrary finite domains, 2002.
"""

from __future__ import annotations

import numpy as np

from salt_jax.data.splitmix64 import GOLDEN_GAMMA, MASK_64, mix

_ROUNDS = 6
_GOLDEN = np.uint64(GOLDEN_GAMMA)


def shuffled(positions: np.ndarray, *, size: int, seed: int) -> np.ndarray:
    """Returns the numbers at `positions` of an endless stream of shuffled epochs.

    Epoch e covers positions e * size to (e + 1) * size. It is a permutation of
    [0, size), different in every epoch.

    Args:
      positions: int64 [N], at least 0.
      size: The number of elements in an epoch.
      seed: Determines the order of all epochs.

    Returns:
      int64 [N], each in [0, size).

    Raises:
      ValueError: there is nothing to shuffle.
    """
    if size < 1:
        raise ValueError(f"Cannot shuffle {size} numbers.")
    positions = np.asarray(positions, np.int64)
    epochs, numbers = np.divmod(positions, size)
    keys = _round_keys(seed, epochs.astype(np.uint64))
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    numbers = _feistel(numbers.astype(np.uint64), keys, half_bits)
    while (outside := numbers >= size).any():
        numbers[outside] = _feistel(numbers[outside], keys[:, outside], half_bits)
    return numbers.astype(np.int64)


def _round_keys(seed: int, epochs: np.ndarray) -> np.ndarray:
    """Returns the key of each round for each of `epochs`, [_ROUNDS, N]."""
    seed_key = mix(np.array([seed & MASK_64], np.uint64))
    epoch_keys = mix(seed_key ^ mix(epochs + _GOLDEN))
    rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None]
    return mix(epoch_keys + rounds * _GOLDEN)


def _feistel(numbers: np.ndarray, keys: np.ndarray, half_bits: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = numbers >> half_bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right
