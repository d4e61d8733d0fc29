import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.optim.schedules import (
    Constant,
    LinearDecay,
    LinearRatioDecay,
    Step,
    WarmupCosine,
    WarmupInverseSqrt,
    WarmupLinear,
    WarmupStableDecay,
)

RAMP = {"peak": 2.0, "end": 0.5, "warmup_steps": 10, "total_steps": 30}
STABLE = RAMP | {"decay_step": 20}
ALL = [
    Constant(value=0.3),
    Step(value=0.3, end_step=20),
    LinearDecay(start=1.0, end=0.2, begin_step=10, end_step=30),
    LinearRatioDecay(start=0.75, begin_step=10, end_step=30),
    WarmupCosine(**RAMP),
    WarmupLinear(**RAMP),
    WarmupStableDecay(**STABLE),
    WarmupInverseSqrt(peak=2.0, warmup_steps=10),
]
IDS = [type(schedule).__name__ for schedule in ALL]


def values(schedule, *steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
@pytest.mark.parametrize("step", [0, 7, 10, 19, 20, 30, 1000])
def test_a_traced_step_gives_the_float32_scalar_of_a_python_int(schedule, step):
    traced = jax.jit(schedule)(jnp.int32(step))
    plain = schedule(step)
    for value in (traced, plain):
        assert (value.shape, value.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(traced, plain, rtol=1e-6)


def test_a_constant_is_its_value_at_any_step():
    assert values(Constant(value=0.25), 0, 1, 10**7) == [0.25] * 3


def test_a_step_ends_exactly_at_its_end():
    assert values(Step(value=0.5, end_step=20), 0, 19, 20, 21) == [0.5, 0.5, 0.0, 0.0]


def test_linear_decay_is_a_line_between_two_levels():
    schedule = LinearDecay(start=1.0, end=0.5, begin_step=10, end_step=30)
    found = values(schedule, 0, 10, 15, 20, 30, 99)
    assert found == [1.0, 1.0, 0.875, 0.75, 0.5, 0.5]


def test_linear_ratio_decay_has_a_ratio_that_is_a_line():
    schedule = LinearRatioDecay(start=0.75, begin_step=10, end_step=30)
    weights = np.array(values(schedule, 0, 10, 15, 20, 25, 30, 99))
    np.testing.assert_allclose(
        weights / (1 - weights), [3.0, 3.0, 2.25, 1.5, 0.75, 0.0, 0.0], rtol=1e-6
    )


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupLinear])
def test_warm_up_is_a_line_from_zero_to_the_peak_and_ends_at_the_end(kind):
    assert values(kind(**RAMP), 0, 5, 10, 30, 99) == [0.0, 1.0, 2.0, 0.5, 0.5]


def test_half_way_down_both_shapes_are_half_way():
    half = [(2.0 + 0.5) / 2]
    np.testing.assert_allclose(values(WarmupCosine(**RAMP), 20), half, rtol=1e-6)
    np.testing.assert_allclose(values(WarmupLinear(**RAMP), 20), half, rtol=1e-6)


def test_a_quarter_down_a_cosine_is_above_the_line():
    quarter = 0.5 + 1.5 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(values(WarmupCosine(**RAMP), 15), quarter, rtol=1e-6)
    assert values(WarmupLinear(**RAMP), 15) == [0.5 + 1.5 * 0.75]


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupLinear])
def test_without_warm_up_the_first_step_is_at_the_peak(kind):
    assert values(kind(**RAMP | {"warmup_steps": 0}), 0) == [2.0]


def test_a_stable_rate_is_at_its_peak_until_it_decays_in_a_line():
    found = values(WarmupStableDecay(**STABLE), 0, 5, 10, 19, 20, 25, 30, 99)
    assert found == [0.0, 1.0, 2.0, 2.0, 2.0, 1.25, 0.5, 0.5]


def test_inverse_sqrt_is_continuous_where_its_warm_up_ends():
    schedule = WarmupInverseSqrt(peak=2.0, warmup_steps=10_000)
    around = values(schedule, 9_999, 10_000, 10_001)
    np.testing.assert_allclose(around, [2.0] * 3, rtol=2e-4)


def test_inverse_sqrt_halves_when_the_step_quadruples():
    schedule = WarmupInverseSqrt(peak=2.0, warmup_steps=10)
    assert values(schedule, 0, 5, 10, 40, 160) == [0.0, 1.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(value=-0.1), r"Constant\.value .* got -0\.1"),
        (lambda: Constant(value=float("nan")), "finite"),
        (lambda: Step(value=1.0, end_step=-1), r"Step\.end_step .* got -1"),
        (
            lambda: LinearDecay(start=1.0, end=0.0, begin_step=30, end_step=30),
            r"end_step=30 must be greater than begin_step=30",
        ),
        (
            lambda: LinearDecay(start=1.0, end=0.0, begin_step=-5, end_step=30),
            r"begin_step must not be negative, got -5",
        ),
        (lambda: LinearRatioDecay(start=1.0, begin_step=0, end_step=1), "below 1"),
        (lambda: LinearRatioDecay(start=-0.1, begin_step=0, end_step=1), "at least 0"),
        (lambda: LinearRatioDecay(start=0.5, begin_step=2, end_step=1), "greater than"),
        (lambda: WarmupCosine(**RAMP | {"peak": -1.0}), r"WarmupCosine\.peak"),
        (lambda: WarmupCosine(**RAMP | {"total_steps": 10}), "warmup_steps=10"),
        (lambda: WarmupLinear(**RAMP | {"warmup_steps": -1}), "not be negative"),
        (
            lambda: WarmupStableDecay(**STABLE | {"decay_step": 30}),
            r"total_steps=30 must be greater than decay_step=30",
        ),
        (
            lambda: WarmupStableDecay(**STABLE | {"decay_step": 9}),
            r"decay_step=9 must be greater than warmup_steps=10",
        ),
        (lambda: WarmupInverseSqrt(peak=1.0, warmup_steps=0), "positive, got 0"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
