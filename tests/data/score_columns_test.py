import numpy as np
import pytest

from salt_jax.data.score_columns import column_definitions, salt_scores

CE = np.array([[4.0, 1.0, 3.0, 2.0, 9.0]], np.float32)
RANK = np.array([[0, 10, 9, 3, 0]])


def scores(weights, ce=CE, rank=RANK, ks=(10,)):
    return {
        name: values.tolist()
        for name, values in salt_scores(ce, rank, np.array(weights), ks).items()
    }


def test_targets_out_of_the_top_k_are_zeros_or_dropped():
    assert scores([[1, 1, 1, 1, 0]]) == {
        "mean_loss": [2.5],
        "median_k10_zeros": [2.5],  # Of 0, 2, 3, 4.
        "median_k10_dropped": [3.0],  # Of 2, 3, 4.
        "mean_k10_zeros": [2.25],
        "mean_k10_dropped": [3.0],
    }


def test_padding_counts_in_no_column():
    padded = np.concatenate([CE, np.full((1, 3), 99, np.float32)], axis=1)
    rank = np.concatenate([RANK, np.zeros((1, 3), int)], axis=1)
    weights = [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert scores(weights, padded, rank) == scores([[1, 1, 1, 1, 1]])


def test_over_no_position_every_score_is_zero():
    assert set(map(tuple, scores([[0, 0, 0, 0, 0]]).values())) == {(0.0,)}


def test_where_nothing_is_learnable_only_the_loss_is_left():
    found = scores([[1, 1, 1, 1, 1]], rank=RANK + 10)
    assert found.pop("mean_loss") == [pytest.approx(3.8)]
    assert set(map(tuple, found.values())) == {(0.0,)}


def test_each_k_gives_what_it_gives_alone():
    weights = [[1, 1, 1, 1, 1]]
    together = scores(weights, ks=(1, 5, 10))
    for k in (1, 5, 10):
        alone = scores(weights, ks=(k,))
        assert alone == {name: together[name] for name in alone}


def test_scores_are_those_of_the_formula_row_by_row():
    draw = np.random.default_rng(0)
    ce = draw.exponential(size=(50, 33)).astype(np.float32)
    rank = draw.integers(0, 20, ce.shape)
    weights = (draw.random(ce.shape) < 0.8).astype(np.float32)
    found = salt_scores(ce, rank, weights, (10,))
    for row in range(50):
        counted = weights[row] > 0
        learnable = counted & (rank[row] < 10)
        product = (rank[row] < 10) * ce[row]
        expected = {
            "mean_loss": np.mean(ce[row][counted]),
            "median_k10_zeros": np.median(product[counted]),
            "median_k10_dropped": np.median(ce[row][learnable]),
            "mean_k10_zeros": np.mean(product[counted]),
            "mean_k10_dropped": np.mean(ce[row][learnable]),
        }
        # Sums in another order and precision.
        np.testing.assert_allclose(
            [found[name][row] for name in expected], list(expected.values()), rtol=1e-6
        )


def test_every_column_is_defined_and_float32():
    columns = salt_scores(CE, RANK, np.ones_like(CE), (1, 10))
    assert list(columns) == list(column_definitions((1, 10)))
    assert {values.dtype for values in columns.values()} == {np.dtype(np.float32)}
