import numpy as np
import pytest

from salt_jax.data.apportionment import apportion

UNEVEN = (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize("weights", [(3.0, 1.0), UNEVEN, (1.0,), (1e-6, 1.0)])
@pytest.mark.parametrize("total", [0, 1, 999, 10**10])
def test_counts_add_up_and_are_less_than_one_off(weights, total):
    weights = np.array(weights)
    counts = apportion(total, weights)
    assert counts.sum() == total
    assert np.abs(counts - total * weights / weights.sum()).max() < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_no_count_is_above_its_size_unless_the_total_is(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        sizes = rng.integers(0, 30, rng.integers(1, 9)) + np.eye(1, 1, dtype=int)[0]
        total = rng.integers(0, sizes.sum() + 1)
        counts = apportion(total, sizes)
        assert counts.sum() == total
        assert (counts <= sizes).all()
        assert (np.abs(counts - total * sizes / sizes.sum()) < 1).all()


@pytest.mark.parametrize("scale", [1, 1.0])
def test_the_largest_remainders_get_what_is_left(scale):
    assert apportion(10, scale * np.array([58, 17, 25])).tolist() == [6, 2, 2]
    assert apportion(1, scale * np.array([5, 5])).tolist() == [1, 0]


def test_integers_of_a_corpus_of_full_size_are_divided_exactly():
    sizes = np.array([150_000_000, 49_999_999, 1])
    assert apportion(100_000_000, sizes).tolist() == [75_000_000, 25_000_000, 0]
