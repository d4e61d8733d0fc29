import jax
import jax.numpy as jnp

from salt_jax.loss.weighted_mean import WeightedMean


def pair(values, weights):
    return WeightedMean.of(jnp.asarray(values, float), jnp.asarray(weights, float))


def test_halves_add_up_to_the_whole_where_a_mean_of_means_does_not():
    values, weights = [[1.0, 2.0], [10.0, 4.0]], [[1.0, 0.0], [1.0, 1.0]]
    halves = [pair(values[i : i + 1], weights[i : i + 1]) for i in range(2)]
    assert (halves[0] + halves[1]).mean() == pair(values, weights).mean() == 5.0
    assert (halves[0].mean() + halves[1].mean()) / 2 == 4.0


def test_the_order_of_addition_does_not_matter():
    a, b = pair([[3.0]], [[2.0]]), pair([[5.0]], [[1.0]])
    both = jax.tree.map(lambda x, y: x == y, a + b, b + a)
    assert both.total and both.weight


def test_what_has_no_weight_changes_nothing():
    counted = pair([[1.0, 2.0]], [[1.0, 1.0]])
    assert pair([[1.0, 2.0, 99.0]], [[1.0, 1.0, 0.0]]).mean() == counted.mean()


def test_a_mean_over_no_weight_is_zero():
    assert pair([[7.0]], [[0.0]]).mean() == 0.0


def test_a_pair_is_a_tree_of_its_two_arrays():
    summed = jax.tree.map(jnp.add, pair([[1.0]], [[1.0]]), pair([[2.0]], [[3.0]]))
    assert (summed.total, summed.weight) == (7.0, 4.0)
