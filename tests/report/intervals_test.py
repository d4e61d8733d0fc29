import itertools
import math

import numpy as np
import pytest

from salt_jax.report.intervals import (
    Estimate,
    bootstrap_interval,
    resampled_means,
    t_interval,
)

# Student's data: hours of sleep that ten patients gained with the second of two drugs
# over the first (The probable error of a mean, 1908, section IX).
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_students_interval_is_that_of_his_own_example():
    # As R prints of t.test(extra ~ group, sleep, paired=TRUE).
    assert t_interval(SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


def test_of_two_values_the_quantile_is_that_of_cauchys_distribution():
    quantile = math.tan(math.pi * 0.475)
    assert t_interval([1.0, 3.0]) == pytest.approx((2 - quantile, 2 + quantile))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_nineteen_of_twenty_intervals_cover_the_mean(count):
    draws = np.random.default_rng(count).normal(7.0, 2.0, size=(8000, count))
    intervals = np.array([t_interval(row) for row in draws])
    covered = np.mean((intervals[:, 0] < 7.0) & (intervals[:, 1] > 7.0))
    assert covered == pytest.approx(0.95, abs=0.01)  # Four standard errors.


@pytest.mark.parametrize(("count", "by"), [(2, 1e-12), (5, 1e-12), (9, 0.03)])
def test_resampled_means_have_the_variance_of_the_values_over_their_number(count, by):
    values = np.random.default_rng(0).normal(size=count)
    means = resampled_means(values)
    assert np.mean(means) == pytest.approx(values.mean(), abs=max(by, 1e-12))
    assert np.var(means) == pytest.approx(np.var(values) / count, rel=by)


def test_the_bootstrap_of_two_values_reaches_from_one_to_the_other():
    assert bootstrap_interval([1.0, 3.0]) == pytest.approx((1.0, 3.0))


@pytest.mark.parametrize("count", [3, 7])
def test_the_order_of_seeds_changes_no_digit(count):
    values = list(np.random.default_rng(1).normal(size=count))
    orders = itertools.islice(itertools.permutations(values), 0, 5000, 500)
    assert len({Estimate.of(order) for order in orders}) == 1


def test_one_seed_has_a_mean_and_no_interval():
    one = Estimate.of([2.5])
    assert (one.mean, one.count, one.error, one.t, one.bootstrap) == (
        *(2.5, 1),
        *(None, None, None),
    )


def test_no_seed_has_no_mean():
    with pytest.raises(ValueError, match="got none"):
        Estimate.of([])
