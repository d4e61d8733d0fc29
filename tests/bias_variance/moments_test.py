"""Bias and variance from products of gradients, against their definitions."""

import math

import numpy as np
import pytest

from salt_jax.bias_variance.moments import Moments, MomentsOf

NAMES = ("one-hot", "teacher")
SIZE, COUNT = 6, 4000


def drawn(rng, *, bias=0.0, kept=0.5):
    """Pairs of gradients: the soft one has `kept` of the noise, and a bias."""
    mean = np.linspace(-1, 1, SIZE)
    noise = rng.normal(size=(COUNT, SIZE))
    return np.stack([mean + noise, mean + bias + kept * noise], axis=1)


def moments_of(pairs):
    found = MomentsOf(NAMES)
    for hot, soft in pairs.astype(np.float32):
        trees = [{"a": x[:2], "b": {"c": x[2:].reshape(2, 2)}} for x in (hot, soft)]
        found.add(trees)
    return found.moments()


@pytest.fixture(scope="module")
def pairs():
    return drawn(np.random.default_rng(0), bias=0.3)[:200]


def test_they_are_those_of_the_definitions(pairs):
    moments = moments_of(pairs)
    for i, name in enumerate(NAMES):
        variance = np.var(pairs[:, i], axis=0, ddof=1).sum()
        assert moments.variance(name) == pytest.approx(variance, rel=1e-4)
    difference = pairs[:, 1] - pairs[:, 0]
    spread = np.var(difference, axis=0, ddof=1).sum()
    assert moments.difference_variance("teacher") == pytest.approx(spread, rel=1e-4)
    plain = np.sum(difference.mean(axis=0) ** 2)
    bias = moments.squared_bias("teacher")
    assert bias == pytest.approx(plain - spread / len(pairs), rel=1e-3)


def test_the_variance_of_the_soft_labels_and_of_the_difference_add_up(pairs):
    c = moments_of(pairs).covariances_KK
    difference = c[1, 1] - 2 * c[0, 1] + c[0, 0]
    with_soft = c[0, 1] - c[1, 1]  # Of the difference with the soft gradient.
    assert c[0, 0] == pytest.approx(c[1, 1] + difference + 2 * with_soft, rel=1e-9)


def test_the_bias_is_estimated_without_the_noise():
    rng = np.random.default_rng(1)
    found = [moments_of(drawn(rng)[:20]).squared_bias("teacher") for _ in range(60)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    # A plain square of the mean difference would be this much above 0.
    assert 6 * error < SIZE * 0.25 / 20


def test_labels_have_the_same_error_over_as_many_batches_as_it_says():
    covariances_KK, bias = np.array([[6.0, 3.0], [3.0, 1.5]]), 0.54
    means_KK = np.array([[2.0, 2.0], [2.0, 2.0 + bias]])
    moments = Moments(
        names=NAMES, count=9, means_KK=means_KK, covariances_KK=covariances_KK
    )
    batches = moments.equal_error("teacher")
    assert 6.0 / batches == pytest.approx(bias + 1.5 / batches)
    assert moments.squared_mean() == 2.0


@pytest.mark.parametrize("batches", [1.0, 20.0])
def test_no_weight_has_less_error_than_the_best_one(batches):
    covariances_KK, bias = np.array([[6.0, 1.0], [1.0, 1.5]]), 0.5
    means_KK = np.array([[2.0, 2.0], [2.0, 2.0 + bias]])
    moments = Moments(
        names=NAMES, count=9, means_KK=means_KK, covariances_KK=covariances_KK
    )

    def error(w):
        blend = np.array([1 - w, w])
        return w**2 * bias + blend @ covariances_KK @ blend / batches

    grid = np.linspace(0, 1, 1001)
    best = grid[np.argmin([error(w) for w in grid])]
    assert moments.best_weight("teacher", batches) == pytest.approx(best, abs=1e-3)
    assert 0.0 < best < 1.0


def test_labels_that_save_no_variance_are_never_better():
    moments = Moments(
        names=NAMES,
        count=9,
        means_KK=np.array([[1.0, 1.0], [1.0, 1.1]]),
        covariances_KK=np.array([[1.0, 1.0], [1.0, 1.2]]),
    )
    assert moments.equal_error("teacher") == 0.0
    assert moments.best_weight("teacher") == 0.0


def test_a_variance_of_one_batch_is_refused():
    found = MomentsOf(NAMES)
    found.add([np.ones(2, np.float32)] * 2)
    with pytest.raises(ValueError, match="two batches, got 1"):
        found.moments()
