"""Each part of a decoder against its formula, and what the parts promise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from salt_jax.batch import Batch
from salt_jax.model.attention_context import attention_mask
from salt_jax.model.attention_xla import xla
from salt_jax.model.config import RopeScaling
from salt_jax.model.layers import RMSNorm
from salt_jax.model.quantized import abstract_held, hold
from salt_jax.model.transformer import Transformer, init_params
from tests.examples import (
    SMALL,
    on_mesh,
    packed_batch,
    partitioning,
    small_model,
    stack_layers,
)
from tests.model.all_parts import ALL_PARTS, lively_model
from tests.model.formula import formula


def example():
    """A row of two documents, of which the first begins with a prefix."""
    batch = packed_batch(rows=1, length=14, seed=3)
    return batch.replace(prefix_BL=(batch.segments_BL == 1) & (batch.positions_BL < 3))


def value_and_gradient(logits_of, batch):
    """A function from parameters to logits and to the gradient of a sum of them."""

    def total(params):
        logits_BLV = logits_of(params)
        return jnp.sum(jnp.sin(logits_BLV) * batch.weights_BL[..., None]), logits_BLV

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def assert_close(found, expected):
    # Gradients go up to 30; norms of small numbers make their roundings larger.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        found,
        expected,
    )


PARTS = {
    "none": {},
    "some": {
        "qkv_bias": True,
        "rope_scaling": RopeScaling(kind="linear", factor=3.0),
        "scale_embedding": False,
        "sliding_window": 3,
        "global_every": 9,
        "tied_embedding": False,
    },
    "all": ALL_PARTS,
}


@pytest.mark.slow
@pytest.mark.parametrize("parts", PARTS)
def test_logits_and_gradients_are_those_of_the_formula(parts):
    model, params = lively_model(scan_layers=False, **PARTS[parts])
    batch = example()
    ours = lambda params: model.apply(params, batch).logits()
    theirs = lambda params: formula(model.config, params, batch)
    assert_close(
        value_and_gradient(ours, batch)(params),
        value_and_gradient(theirs, batch)(params),
    )


@pytest.mark.slow
def test_scanned_layers_know_which_of_them_have_a_window():
    unrolled, params = lively_model(scan_layers=False, **ALL_PARTS)
    scanned, _ = lively_model(remat="full", **ALL_PARTS)
    batch = example()
    stack = lambda params: stack_layers(params, scanned.config.num_layers)
    both = lambda model: lambda params: model.apply(params, batch).logits()
    (_, expected), gradient = value_and_gradient(both(unrolled), batch)(params)
    (_, found), stacked = value_and_gradient(both(scanned), batch)(stack(params))
    assert_close((found, stacked), (expected, stack(gradient)))


@pytest.mark.slow
def test_on_a_mesh_of_eight_all_parts_give_the_numbers_of_a_mesh_of_one():
    model, params = lively_model(**ALL_PARTS)
    mesh = partitioning(8, model=2)
    sharded, sharded_params = lively_model(mesh, **ALL_PARTS)
    batch = packed_batch()
    of = lambda model, batch: lambda params: model.apply(params, batch).logits()
    assert_close(
        value_and_gradient(of(sharded, on_mesh(batch, mesh)), batch)(sharded_params),
        value_and_gradient(of(model, batch), batch)(params),
    )


def test_new_parameters_have_the_names_shapes_and_axes_that_were_promised():
    config = dataclasses.replace(SMALL, **ALL_PARTS, scan_layers=False)
    model = Transformer(config, partitioning())
    boxed = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    axes = nn.get_partition_spec(boxed)["params"]["layer_0"]
    layer = nn.unbox(boxed)["params"]["layer_0"]
    attention = layer["attention"]
    found = {name: attention[name].shape for name in attention if "bias" in name}
    assert found == {"query_bias": (4, 8), "key_bias": (2, 8), "value_bias": (2, 8)}
    assert tuple(axes["attention"]["query_bias"]) == ("heads", "head_dim")
    assert tuple(axes["attention"]["key_bias"]) == ("kv_heads", "head_dim")
    assert attention["query_norm"]["scale"].shape == (8,)
    assert tuple(axes["attention"]["key_norm"]["scale"]) == ("head_dim",)
    assert layer["attention_post_norm"]["scale"].shape == (32,)
    assert layer["mlp_post_norm"]["scale"].shape == (32,)


def test_a_zero_centered_norm_begins_as_one_that_is_not():
    plain, params = small_model()
    centered, zeros = small_model(zero_centered_norm=True)
    batch = packed_batch()
    reads = lambda model, params: jax.jit(model.apply)(params, batch).hidden_BLD
    assert_close(reads(centered, zeros), reads(plain, params))
    assert not zeros["params"]["final_norm"]["scale"].any()


def test_a_window_counts_the_token_itself():
    model, params = small_model(num_layers=1, sliding_window=3, global_every=2)
    tokens_BL = packed_batch(rows=1).tokens_BL
    ones_BL = jnp.ones_like(tokens_BL)
    batch = Batch(tokens_BL, tokens_BL, ones_BL, ones_BL, jnp.arange(16)[None])
    reads = jax.jit(lambda batch: model.apply(params, batch).logits())
    before, after = (
        reads(batch.replace(tokens_BL=tokens_BL.at[0, 5].add(change)))
        for change in (0, 1)
    )
    changed_L = jnp.abs(after - before).max(-1)[0] > 0.0
    assert jnp.flatnonzero(changed_L).tolist() == [5, 6, 7]


def test_a_softcap_in_bfloat16_has_the_gradient_of_float32():
    keys = jax.random.split(jax.random.key(1), 3)
    q, k, v = (4.0 * jax.random.normal(key, (2, 12, 2, 8)) for key in keys)
    mask = attention_mask(jnp.ones((2, 12), jnp.int32))

    def gradient(dtype):
        total = lambda *x: xla(*x, mask, softcap=3.0).astype(jnp.float32).sum()
        found = jax.grad(total, argnums=(0, 1, 2))(
            *(x.astype(dtype) for x in (q, k, v))
        )
        return jax.tree.map(lambda x: np.asarray(x, np.float32), found)

    for found, exact in zip(gradient("bfloat16"), gradient("float32"), strict=True):
        # Where scores are near the cap, one minus a rounded square would be noise.
        assert np.abs(found - exact).mean() < 0.02 * np.abs(exact).mean() + 1e-4


@pytest.mark.slow
def test_a_model_of_all_parts_is_read_as_int8_but_for_norms_and_biases():
    model, params = lively_model(**ALL_PARTS)
    batch = packed_batch()
    logits = jax.jit(lambda params: model.apply(params, batch).logits())
    expected = logits(params)
    as_int8 = hold(jax.tree.map(jnp.copy, params), abstract_held(model, "int8"))
    assert 1e-4 < jnp.abs(logits(as_int8) - expected).max() < 0.5
    attention = as_int8["params"]["layers"]["attention"]
    assert attention["query_bias"].dtype == jnp.float32
    assert attention["query_norm"]["scale"].dtype == jnp.float32


def test_a_zero_centered_norm_held_in_bfloat16_is_not_rounded_when_1_is_added():
    config = dataclasses.replace(SMALL, zero_centered_norm=True)
    x_BLD = jax.random.normal(jax.random.key(0), (1, 2, 16))
    scale_D = 0.1 * jax.random.normal(jax.random.key(1), (16,), jnp.bfloat16)
    read = RMSNorm(config).apply({"params": {"scale": scale_D}}, x_BLD)
    exact = {"params": {"scale": scale_D.astype(jnp.float32)}}
    np.testing.assert_array_equal(read, RMSNorm(config).apply(exact, x_BLD))
