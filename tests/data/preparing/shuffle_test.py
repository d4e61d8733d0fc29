import numpy as np
import pytest

from salt_jax.data.preparing.shuffle import shuffle_keys

NUMBERS = np.arange(1, 20_001)


def test_keys_differ_by_document_part_and_seed():
    keys = np.concatenate(
        [shuffle_keys(seed, part, NUMBERS) for seed in range(3) for part in range(3)]
    )
    assert keys.dtype == np.uint64
    assert len(np.unique(keys)) == len(keys)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**64])
def test_keys_are_spread_evenly_over_all_that_there_are(seed):
    counts = np.bincount(shuffle_keys(seed, 0, NUMBERS) >> np.uint64(58), minlength=64)
    expected = len(NUMBERS) / 64
    # Chi-squared of 63 degrees of freedom: 117 is passed once in 30,000 times.
    assert ((counts - expected) ** 2 / expected).sum() < 117


def test_neighbors_are_not_neighbors_in_the_order():
    for part in range(3):
        ranks = np.argsort(np.argsort(shuffle_keys(0, part, NUMBERS)))
        correlation = np.corrcoef(ranks[:-1], ranks[1:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(len(NUMBERS))


def test_parts_are_mixed_evenly():
    keys = [shuffle_keys(5, part, NUMBERS) for part in range(2)]
    correlation = np.corrcoef(*(np.argsort(np.argsort(x)) for x in keys))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(NUMBERS))
    is_second = np.argsort(np.concatenate(keys)) >= len(NUMBERS)
    half = is_second[: len(NUMBERS)].mean()
    assert abs(half - 0.5) < 5 * 0.5 / np.sqrt(2 * len(NUMBERS))


def test_a_key_does_not_depend_on_what_is_asked_with_it():
    some = np.array([7, 19_999])
    np.testing.assert_array_equal(
        shuffle_keys(3, 4, some), shuffle_keys(3, 4, NUMBERS)[some - 1]
    )
