import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.optim.moving_average import MovingAverage


def averages(average, series, steps=None):
    """The averages after each update of a parameter, whose values are `series`."""
    state, found = average.init({"w": jnp.float32(-1e6)}), []
    update = jax.jit(average.update)
    for step, value in zip(steps or range(1, len(series) + 1), series, strict=True):
        state = update(state, {"w": jnp.float32(value)}, jnp.int32(step))
        found.append(float(state.params["w"]))
    return found, int(state.updates)


def test_the_average_of_three_updates_is_the_weighted_mean_of_them():
    d = 0.75
    found, updates = averages(MovingAverage(decay=d), [1.0, 5.0, -3.0])
    expected = [
        1.0,
        (d * 1.0 + 5.0) / (d + 1.0),
        (d**2 * 1.0 + d * 5.0 - 3.0) / (d**2 + d + 1.0),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert updates == 3


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9999])
def test_parameters_that_do_not_change_are_their_own_average(decay):
    value = np.float32(0.1)
    assert averages(MovingAverage(decay=decay), [value] * 20)[0] == [value] * 20


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999])
def test_a_long_average_has_the_closed_form_of_any_decay(decay):
    series = np.random.default_rng(0).normal(size=50)
    weights = decay ** np.arange(49, -1, -1.0)
    found, _ = averages(MovingAverage(decay=decay), series)
    expected = np.sum(weights * series) / np.sum(weights)
    np.testing.assert_allclose(found[-1], expected, rtol=1e-5, atol=1e-6)


def test_before_it_begins_the_average_is_a_copy():
    average = MovingAverage(decay=0.5, begin_step=3)
    found, updates = averages(average, [4.0, 2.0, 9.0, 1.0, 7.0])
    expected = [4.0, 2.0, 9.0, 1.0, (0.5 * 1.0 + 7.0) / 1.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert updates == 2


def test_the_horizon_is_the_age_at_which_a_weight_has_fallen_to_one_in_e():
    average = MovingAverage(decay=0.99)
    np.testing.assert_allclose(average.horizon, 100.0)
    np.testing.assert_allclose(0.99**average.horizon, np.exp(-1.0), rtol=0.01)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay .* got {decay}"):
        MovingAverage(decay=decay)
    with pytest.raises(ValueError, match="begin_step .* got -1"):
        MovingAverage(decay=0.9, begin_step=-1)
