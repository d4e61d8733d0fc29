"""From how many tokens on one-hot labels win."""

import math

import pytest

from salt_jax.bias_variance.crossing import crossing

TOKENS = (100, 200, 400, 800)


def test_lines_on_logarithmic_axes_cross_where_they_meet():
    one_hot = [100.0 / n for n in TOKENS]
    soft = [0.35 for _ in TOKENS]
    assert crossing(TOKENS, one_hot, soft) == pytest.approx(100 / 0.35)


def test_it_is_the_last_one_that_counts():
    one_hot = (1.0, 0.5, 0.4, 0.1)
    soft = (0.9, 0.6, 0.3, 0.2)
    assert 400 < crossing(TOKENS, one_hot, soft) < 800


def test_labels_that_win_or_lose_at_all_tokens_have_no_crossing():
    assert crossing(TOKENS, (1.0,) * 4, (0.5,) * 4) == math.inf
    assert crossing(TOKENS, (1.0,) * 4, (2.0,) * 4) == 0.0
