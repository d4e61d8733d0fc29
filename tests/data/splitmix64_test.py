import numpy as np

from salt_jax.data.splitmix64 import GOLDEN_GAMMA, mix


def test_the_generator_of_a_seed_gives_the_published_numbers():
    seed, gamma = np.array([1234567], np.uint64), np.uint64(GOLDEN_GAMMA)
    states = seed + gamma * np.arange(1, 4, dtype=np.uint64)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_mixing_leaves_its_argument_alone_unless_it_is_the_output():
    numbers = np.arange(5, dtype=np.uint64)
    mixed = mix(numbers)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert mix(numbers, out=numbers) is numbers
    np.testing.assert_array_equal(numbers, mixed)
