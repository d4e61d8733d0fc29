import warnings

import numpy as np
import pytest

from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.scoring.minhash import sketches
from salt_jax.data.scoring.score_columns import (
    QUANTILES,
    column_definitions,
    loss_quantiles,
    main_domains,
    record_dtype,
    salt_scores,
    score_columns,
)

CE = np.array([[4.0, 1.0, 3.0, 2.0, 9.0]], np.float32)
RANK = np.array([[0, 10, 9, 3, 0]])


def scores(weights, ce=CE, rank=RANK, ks=(10,)):
    return {
        name: values.tolist()
        for name, values in salt_scores(ce, rank, np.array(weights), ks).items()
    }


def random_reading(rows=50, length=33, seed=0):
    """Sequences of random lengths, and losses, ranks and entropies of their tokens."""
    draw = np.random.default_rng(seed)
    shape = (rows, length)
    is_token = np.arange(length) < draw.integers(1, length + 1, (rows, 1))
    sequences = Sequences(
        draw.integers(0, 999, shape, np.int32),
        is_token.astype(np.int32),
        np.zeros(shape, np.int32),
        np.where(is_token, draw.integers(0, 3, shape), -1).astype(np.int16),
    )
    arrays = {
        "ce_NL": draw.exponential(3.0, shape).astype(np.float32),
        "rank_NL": draw.integers(0, 20, shape, np.int32),
        "entropy_NL": draw.exponential(2.0, shape).astype(np.float32),
    }
    return sequences, arrays


def test_targets_out_of_the_top_k_are_zeros_or_dropped():
    assert scores([[1, 1, 1, 1, 0]]) == {
        "mean_loss": [2.5],
        "median_k10_zeros": [2.5],  # Of 0, 2, 3, 4.
        "median_k10_dropped": [3.0],  # Of 2, 3, 4.
    }


def test_padding_counts_in_no_column():
    padded = np.concatenate([CE, np.full((1, 3), 99, np.float32)], axis=1)
    rank = np.concatenate([RANK, np.zeros((1, 3), int)], axis=1)
    weights = [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert scores(weights, padded, rank) == scores([[1, 1, 1, 1, 1]])


def test_what_padding_holds_is_in_no_column_of_a_record():
    sequences, arrays = random_reading()
    is_padding = sequences.segments == 0
    other = Sequences(
        np.where(is_padding, 7, sequences.tokens),
        sequences.segments,
        sequences.positions,
        sequences.domains,
    )
    others = {
        name: np.where(is_padding, x.dtype.type(99), x) for name, x in arrays.items()
    }
    found = score_columns(other, **others, ks=(1, 10))
    for name, expected in score_columns(sequences, **arrays, ks=(1, 10)).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_over_no_position_every_score_is_zero():
    assert set(map(tuple, scores([[0, 0, 0, 0, 0]]).values())) == {(0.0,)}
    nothing = np.zeros(CE.shape, bool)
    assert loss_quantiles(CE, nothing).tolist() == [[0.0] * len(QUANTILES)]


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


def test_a_record_is_that_of_the_formulas_row_by_row():
    sequences, arrays = random_reading()
    found = score_columns(sequences, **arrays, ks=(10,))
    ce_NL, rank_NL, entropy_NL = arrays.values()
    for row in range(len(ce_NL)):
        counted = sequences.segments[row] > 0
        ce, is_learnable = ce_NL[row, counted], rank_NL[row, counted] < 10
        expected = {
            "mean_loss": np.mean(ce),
            "entropy": np.mean(entropy_NL[row, counted]),
            "median_k10_zeros": np.median(is_learnable * ce),
            "median_k10_dropped": np.median(ce[is_learnable])
            if any(is_learnable)
            else 0,
            "domain": np.bincount(sequences.domains[row, counted]).argmax(),
            "sketch": sketches(sequences.tokens[[row]], counted[None])[0],
        }
        # Sums in another order and precision.
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][row], value, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(  # Half a unit in the last of float16's 11 bits.
            found["loss_quantiles"][row], np.quantile(ce, QUANTILES), rtol=2.0**-11
        )


def test_quantiles_are_those_of_numpy_before_they_are_rounded():
    sequences, arrays = random_reading(seed=1)
    is_target = sequences.segments > 0
    found = loss_quantiles(arrays["ce_NL"], is_target)
    for row, counted in enumerate(is_target):
        expected = np.quantile(arrays["ce_NL"][row, counted], QUANTILES)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_the_domain_is_the_one_of_most_tokens_and_of_several_the_smallest():
    domains = [
        [2, 2, 0, 1, 2],
        [1, 0, 0, 1, -1],
        [-1, -1, -1, -1, -1],
        [5, 5, -1, 0, 0],
    ]
    assert main_domains(np.array(domains, np.int16)).tolist() == [2, 0, 0, 0]


def test_a_record_of_the_usual_ks_is_64_bytes_in_the_order_of_the_format():
    dtype = record_dtype((1, 10, 50, 100))
    assert dtype.itemsize == 64
    assert (dtype.names[:4], dtype.names[-3:]) == (
        ("mean_loss", "entropy", "median_k1_zeros", "median_k1_dropped"),
        ("loss_quantiles", "sketch", "domain"),
    )
    assert [dtype[name].str for name in ("entropy", "sketch", "domain")] == [
        "<f4",
        "<u8",
        "<u2",
    ]
    assert dtype["loss_quantiles"] == np.dtype(("<f2", (7,)))


def test_every_column_is_defined_and_of_the_type_of_the_record():
    sequences, arrays = random_reading()
    columns = score_columns(sequences, **arrays, ks=(1, 10))
    dtype = record_dtype((1, 10))
    assert list(columns) == list(column_definitions((1, 10))) == list(dtype.names)
    for name, values in columns.items():
        assert values.dtype == dtype[name].base
        assert values.shape == (50, *dtype[name].shape)


def test_a_loss_too_large_for_its_type_is_infinite_and_no_other_number():
    sequences, arrays = random_reading()
    arrays["ce_NL"] = np.full_like(arrays["ce_NL"], 1e6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_columns(sequences, **arrays, ks=(10,))["loss_quantiles"]
    assert np.isinf(found).all()
