"""What is read piece by piece, with a cache, against what is read at once."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.batch import Batch
from salt_jax.mesh.partitioning import AxisRules
from salt_jax.model.cache import empty_cache
from salt_jax.model.transformer import Transformer
from tests.examples import SMALL, on_mesh, partitioning
from tests.model.all_parts import ALL_PARTS, lively_model

LENGTHS = np.array([14, 9, 5, 11])  # Of the texts; the longest fills its row.
LENGTH = 14


def texts(prefix=0):
    """The texts padded on the left, and the same ones padded on the right."""
    rng = np.random.default_rng(0)
    begin = LENGTH - LENGTHS
    tokens, padding = rng.integers(3, 64, (2, len(LENGTHS), LENGTH))
    turned = np.stack([np.roll(row, n) for row, n in zip(tokens, begin, strict=True)])
    left = batch_of(turned, np.arange(LENGTH)[None] - begin[:, None], padding, prefix)
    right = batch_of(tokens, np.tile(np.arange(LENGTH), (4, 1)), padding, prefix)
    return left, right


def batch_of(tokens, positions, padding, prefix):
    is_text = (positions >= 0) & (positions < LENGTHS[:, None])
    return Batch(
        tokens_BL=jnp.asarray(np.where(is_text, tokens, padding), jnp.int32),
        targets_BL=jnp.zeros(is_text.shape, jnp.int32),
        weights_BL=jnp.asarray(is_text, jnp.float32),
        segments_BL=jnp.asarray(is_text, jnp.int32),
        positions_BL=jnp.asarray(np.where(is_text, positions, 0), jnp.int32),
        prefix_BL=jnp.asarray(is_text & (positions < prefix)) if prefix else None,
    )


def at_once(model, params, batch):
    logits = jax.jit(lambda params, batch: model.apply(params, batch).logits())
    return np.asarray(logits(params, batch))


@functools.partial(jax.jit, static_argnums=0)
def read(model, params, batch, cache):
    unembedding, cache = model.apply(params, batch, cache)
    return unembedding.logits(), cache


def in_pieces(model, params, batch, sizes, *, length=LENGTH, dtype=None):
    """The logits of pieces of `sizes` tokens, one after another, through a cache."""
    cache, found = empty_cache(model, len(LENGTHS), length, dtype), []
    for end in np.cumsum(sizes):
        columns = slice(int(cache.used), end)
        piece = jax.tree.map(operator.itemgetter((slice(None), columns)), batch)
        logits_BLV, cache = read(model, params, piece, cache)
        found.append(np.asarray(logits_BLV))
    assert int(cache.used) == LENGTH
    return np.concatenate(found, axis=1)


def of_texts(logits_BLV, *, is_left):
    """The logits of each text, without those of padding."""
    begins = LENGTH - LENGTHS if is_left else 0 * LENGTHS
    rows = zip(logits_BLV, begins, LENGTHS, strict=True)
    return np.concatenate([row[begin : begin + size] for row, begin, size in rows])


WINDOW = {"sliding_window": 4, "global_every": 2, "local_rope_theta": 100.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts, prefix, sizes",
    [
        ({}, 0, [7, 7]),
        ({}, 3, [12, 1, 1]),  # A prefix is read at once: it sees all of itself.
        (WINDOW, 0, [12, 1, 1]),
        ({"attention_softcap": 1.0}, 0, [7, 7]),
        (ALL_PARTS | {"scan_layers": False}, 3, [12, 1, 1]),
        (ALL_PARTS, 0, [7, 7]),
    ],
    ids=["causal", "prefix", "window", "softcap", "unrolled", "all parts"],
)
def test_texts_of_different_lengths_read_the_same_with_a_cache_and_without(
    parts, prefix, sizes
):
    model, params = lively_model(**parts)
    left, right = texts(prefix)
    found = of_texts(in_pieces(model, params, left, sizes), is_left=True)
    expected = of_texts(at_once(model, params, right), is_left=False)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_what_padding_holds_and_how_much_room_is_left_change_nothing():
    model, params = lively_model(**ALL_PARTS)
    left, _ = texts()
    other = jnp.where(left.segments_BL == 0, 9, left.tokens_BL)
    before = in_pieces(model, params, left, [7, 7])
    after = in_pieces(model, params, left.replace(tokens_BL=other), [7, 7])
    roomy = in_pieces(model, params, left, [7, 7], length=40)
    before, after, roomy = (of_texts(x, is_left=True) for x in (before, after, roomy))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(before, roomy, rtol=1e-5, atol=1e-5)


def test_a_cache_of_bfloat16_costs_a_rounding_of_keys_and_values():
    model, params = lively_model()
    left, _ = texts()
    exact = in_pieces(model, params, left, [7, 7])
    rounded = in_pieces(model, params, left, [7, 7], dtype="bfloat16")
    error = np.abs(of_texts(exact - rounded, is_left=True)).max()
    assert 1e-4 < error < 0.1
    assert empty_cache(model, 1, 3).keys_NBGMK.dtype == jnp.float32


def eight_devices(kv_heads):
    mesh = partitioning(8, model=2)
    return dataclasses.replace(mesh, rules=AxisRules(kv_heads=kv_heads))


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [None, "model"])
def test_a_cache_on_a_mesh_of_eight_gives_the_numbers_of_a_mesh_of_one(kv_heads):
    model, params = lively_model(**ALL_PARTS)
    mesh = eight_devices(kv_heads)
    sharded, sharded_params = lively_model(mesh, **ALL_PARTS)
    left, _ = texts()
    found = in_pieces(sharded, sharded_params, on_mesh(left, mesh), [7, 7])
    expected = in_pieces(model, params, left, [7, 7])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_a_cache_lies_where_the_rules_of_batch_and_key_value_heads_say():
    mesh = partitioning(8, model=2)
    mesh = dataclasses.replace(
        mesh, rules=dataclasses.replace(mesh.rules, kv_heads="model")
    )
    model = Transformer(SMALL, mesh)
    for cache in (
        empty_cache(model, 8, 5),
        jax.jit(lambda: empty_cache(model, 8, 5))(),
    ):
        shard = cache.keys_NBGMK.sharding.shard_shape(cache.keys_NBGMK.shape)
        assert shard == (2, 2, 1, 5, 8)
        assert cache.segments_BM.sharding.shard_shape((8, 5)) == (2, 5)


def test_a_step_writes_its_cache_in_place():
    model, params = lively_model()
    cache = empty_cache(model, len(LENGTHS), LENGTH)
    piece = jax.tree.map(lambda x: x[:, :1], texts()[0])
    step = jax.jit(lambda *x: read(model, *x), donate_argnums=2)
    program = step.lower(params, piece, cache).compile()
    held = cache.keys_NBGMK.nbytes + cache.values_NBGMK.nbytes
    assert program.memory_analysis().alias_size_in_bytes >= held
    assert (
        f"f32[{','.join(map(str, cache.keys_NBGMK.shape))}]{{4,3,2,1,0}} copy("
        not in (program.as_text())
    )


def test_a_model_with_a_kernel_reads_with_a_cache_by_the_reference():
    model, params = lively_model()
    named = model.clone(config=dataclasses.replace(SMALL, attention="splash"))
    left, _ = texts()
    with pytest.raises(ValueError, match="attention='splash'.*tpu"):
        at_once(named, params, left)
    np.testing.assert_array_equal(
        in_pieces(named, params, left, [14]), in_pieces(model, params, left, [14])
    )


@pytest.mark.parametrize("rows, length", [(4, 13), (2, 14)])
def test_a_batch_that_is_larger_than_the_cache_is_refused(rows, length):
    model, params = lively_model()
    message = f"4 rows of 14 .* cache of {rows} rows of {length}"
    with pytest.raises(ValueError, match=message):
        model.apply(params, texts()[0], empty_cache(model, rows, length))


def test_rows_that_do_not_divide_over_the_mesh_are_refused():
    model = Transformer(SMALL, partitioning(8, model=2))
    with pytest.raises(ValueError, match="6 rows of 5 tokens.* multiple of 4"):
        empty_cache(model, 6, 5)
