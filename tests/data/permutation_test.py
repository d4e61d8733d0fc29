import numpy as np
import pytest

from salt_jax.data.permutation import shuffled

GOLDEN = [5, 2, 6, 4, 0, 3, 1, 7]
SIZES = [1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 97, 100, 256, 257, 1009, 4096, 65_537]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("epoch", [0, 1, 12_345])
def test_an_epoch_holds_every_number_once(size, epoch):
    positions = np.arange(epoch * size, (epoch + 1) * size)
    numbers = shuffled(positions, size=size, seed=3)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(size))


def test_a_number_does_not_depend_on_what_is_asked_with_it():
    positions = np.arange(5_000)
    alone = [shuffled(np.array([p]), size=1_009, seed=1)[0] for p in positions[::50]]
    together = shuffled(positions, size=1_009, seed=1)
    np.testing.assert_array_equal(alone, together[::50])


@pytest.mark.parametrize("other", [{"seed": 8}, {"begin": 1_000}])
def test_another_seed_and_another_epoch_have_another_order(other):
    def order(seed=7, begin=0):
        return shuffled(np.arange(begin, begin + 1_000), size=1_000, seed=seed)

    # Of two independent shuffles about one number is in the same place.
    assert np.sum(order() == order(**other)) < 10


def test_every_number_is_as_likely_at_every_place():
    size, num_epochs = 10, 20_000
    numbers = shuffled(np.arange(size * num_epochs), size=size, seed=5)
    places = np.tile(np.arange(size), num_epochs)
    counts = np.bincount(places * size + numbers, minlength=size * size)
    expected = num_epochs / size
    chi_square = np.sum((counts - expected) ** 2 / expected)
    # 81 degrees of freedom: mean 81, and 1 in a million is above 155.
    assert chi_square < 155


def test_neighbors_are_not_kept_together():
    numbers = shuffled(np.arange(100_000), size=100_000, seed=2)
    correlation = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(correlation) < 0.02


def test_the_order_is_the_same_in_every_version():
    # Checkpoints and scores rely on it.
    numbers = shuffled(np.arange(8, 16), size=8, seed=0)
    np.testing.assert_array_equal(numbers, GOLDEN)


def test_the_end_of_a_very_long_stream_is_still_reached():
    position = np.array([2**62])
    assert 0 <= shuffled(position, size=1_000_003, seed=2**70)[0] < 1_000_003


def test_nothing_cannot_be_shuffled():
    with pytest.raises(ValueError, match="Cannot shuffle 0 numbers"):
        shuffled(np.arange(0), size=0, seed=0)
