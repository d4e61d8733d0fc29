import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.generation.sampling import Sampling

LOGITS_V = np.log([0.4, 0.05, 0.3, 0.05, 0.2]).astype(np.float32)


def drawn(sampling, logits_V=LOGITS_V, times=20_000, seed=0):
    """What comes of drawing many times from the same logits."""
    keys_B = jax.random.split(jax.random.key(seed), times)
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V)[None], (times, len(logits_V)))
    return np.asarray(sampling.next_tokens(logits_BV, keys_B))


def shares(sampling, logits_V=LOGITS_V):
    """How often each token is drawn."""
    tokens = drawn(sampling, logits_V)
    return np.bincount(tokens, minlength=len(logits_V)) / len(tokens)


def softmax(logits_V):
    exp_V = np.exp(logits_V - np.max(logits_V))
    return exp_V / exp_V.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_logits_by_the_temperature_say(temperature):
    # The standard deviation of a share of 20,000 draws is at most 0.0036.
    expected = softmax(LOGITS_V / temperature)
    found = shares(Sampling(temperature=temperature))
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_no_temperature_takes_the_likeliest():
    assert set(drawn(Sampling(), times=10)) == {0}


def test_of_the_k_likeliest_each_keeps_its_share():
    expected = [4 / 7, 0, 3 / 7, 0, 0]
    found = shares(Sampling(temperature=1.0, top_k=2))
    np.testing.assert_allclose(found, expected, atol=0.015)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, [0]), (0.5, [0, 2]), (0.71, [0, 2, 4]), (1.0, range(5))]
)
def test_top_p_keeps_the_fewest_tokens_with_that_share(top_p, kept):
    found = shares(Sampling(temperature=1.0, top_p=top_p))
    expected = np.isin(np.arange(5), kept) * softmax(LOGITS_V)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)


def test_the_share_of_top_p_is_of_what_top_k_leaves():
    # Of all, two tokens have 0.7; of the two likeliest, the first has 0.57.
    together = Sampling(temperature=1.0, top_k=2, top_p=0.55)
    assert set(drawn(together)) == {0}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.55))) == {0, 2}


def test_the_share_of_top_p_is_at_the_temperature():
    # At a half, probabilities are squared: the first then has 0.54 of them all.
    assert set(drawn(Sampling(temperature=0.5, top_p=0.5))) == {0}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.5))) == {0, 2}


def test_more_tokens_than_there_are_are_all_of_them():
    every = drawn(Sampling(temperature=1.0, top_k=100))
    np.testing.assert_array_equal(every, drawn(Sampling(temperature=1.0)))


def test_what_is_drawn_does_not_depend_on_rounding_that_changes_ranks():
    draw = np.random.default_rng(0)
    logits_V = np.repeat(draw.normal(size=8), 2).astype(np.float32)  # Pairs of ties.
    rounded_V = logits_V + draw.uniform(-1e-6, 1e-6, 16).astype(np.float32)
    assert (np.argsort(-logits_V, kind="stable") != np.argsort(-rounded_V)).any()
    sampling = Sampling(temperature=1.0, top_k=12, top_p=0.95)
    alike = drawn(sampling, logits_V) == drawn(sampling, rounded_V)
    assert alike.mean() > 0.97  # But for tokens on the edge of what is kept.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 is not"),
        ({"temperature": float("nan")}, "temperature=nan is not"),
        ({"temperature": float("inf")}, "temperature=inf is not"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0 leaves no token: give 1 or more."),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0 is not above 0 and at most 1."),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1 is not above 0 and at most 1."),
        ({"top_k": 5}, "top_k=5 and top_p=None have no effect at temperature=0"),
        ({"top_p": 0.9}, "top_k=None and top_p=0.9 have no effect at temperature=0"),
        ({"seed": -1}, "The seed -1 is not from 0 to 4294967295."),
    ],
)
def test_values_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
