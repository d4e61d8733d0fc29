import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from salt_jax.batch import Batch
from salt_jax.model.attention_context import attention_mask
from salt_jax.model.attention_reference import reference
from salt_jax.model.attention_xla import xla
from salt_jax.model.config import REMAT_POLICIES, TransformerConfig
from salt_jax.model.layers import project
from salt_jax.model.transformer import Transformer, abstract_params
from tests.examples import (
    SMALL,
    on_mesh,
    packed_batch,
    partitioning,
    small_model,
    stack_layers,
)


def logits(model, params, batch):
    return jax.jit(lambda params, batch: model.apply(params, batch).logits())(
        params, batch
    )


def total(model, batch):
    """A scalar that every counted logit matters to."""

    def of(params):
        logits_BLV = model.apply(params, batch).logits()
        log_BLV = jax.nn.log_softmax(logits_BLV)
        target_BL1 = jnp.take_along_axis(log_BLV, batch.targets_BL[..., None], -1)
        return -jnp.sum(target_BL1[..., 0] * batch.weights_BL)

    return of


def one_document(tokens):
    shape = tokens.shape
    return Batch(
        tokens_BL=tokens,
        targets_BL=tokens,
        weights_BL=jnp.ones(shape),
        segments_BL=jnp.ones(shape, jnp.int32),
        positions_BL=jnp.broadcast_to(jnp.arange(shape[1])[None], shape),
    )


def test_a_token_changes_only_what_comes_after_it():
    model, params = small_model()
    tokens = packed_batch().tokens_BL
    before = logits(model, params, one_document(tokens))
    after = logits(model, params, one_document(tokens.at[:, 6].add(1)))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert jnp.abs(before[:, 6:] - after[:, 6:]).max(-1).min() > 1e-4


def test_packed_neighbors_never_see_each_other():
    model, params = small_model()
    batch = packed_batch()
    is_first = batch.segments_BL == 1
    changed = jnp.where(is_first, (batch.tokens_BL + 7) % 64, batch.tokens_BL)
    before = logits(model, params, batch)
    after = logits(model, params, batch.replace(tokens_BL=changed))
    is_second = np.asarray(batch.segments_BL == 2)
    np.testing.assert_array_equal(
        np.asarray(before)[is_second], np.asarray(after)[is_second]
    )


def test_a_document_reads_the_same_alone_and_packed():
    model, params = small_model()
    batch = packed_batch(rows=1)
    cut = int((batch.segments_BL == 1).sum())
    end = int((batch.segments_BL > 0).sum())
    alone = one_document(batch.tokens_BL[:, cut:end])
    np.testing.assert_allclose(
        logits(model, params, batch)[:, cut:end],
        logits(model, params, alone),
        atol=2e-6,
    )


def test_a_prefix_sees_itself_both_ways_and_its_targets_stay_causal():
    segments_BL = jnp.array([[1, 1, 1, 1, 2, 2, 0]])
    prefix_BL = jnp.array([[True, True, False, False, True, True, False]])
    mask_LM = np.asarray(attention_mask(segments_BL, prefix_BL))[0].astype(int)
    np.testing.assert_array_equal(
        mask_LM,
        [
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 1],
        ],
    )


def test_a_prefix_reaches_the_logits():
    model, params = small_model()
    batch = one_document(packed_batch().tokens_BL)
    prefix_BL = batch.positions_BL < 5
    tokens_BL = batch.tokens_BL.at[:, 4].add(1)
    with_prefix = batch.replace(prefix_BL=prefix_BL)
    before = logits(model, params, with_prefix)
    after = logits(model, params, with_prefix.replace(tokens_BL=tokens_BL))
    assert jnp.abs(before[:, 0] - after[:, 0]).max() > 1e-4


both = pytest.mark.parametrize("attend", [reference, xla])


@both
def test_grouped_heads_equal_key_value_heads_said_several_times(attend):
    keys = jax.random.split(jax.random.key(1), 3)
    q_BLHK = jax.random.normal(keys[0], (2, 5, 4, 8))
    k_BMGK, v_BMGK = (jax.random.normal(key, (2, 5, 2, 8)) for key in keys[1:])
    mask_BLM = attention_mask(jnp.ones((2, 5), jnp.int32))
    repeat = lambda x: jnp.repeat(x, 2, axis=2)
    np.testing.assert_allclose(
        attend(q_BLHK, k_BMGK, v_BMGK, mask_BLM),
        attend(q_BLHK, repeat(k_BMGK), repeat(v_BMGK), mask_BLM),
        rtol=1e-6,
        atol=1e-6,
    )


@both
def test_attention_equals_that_of_jax(attend):
    keys = jax.random.split(jax.random.key(1), 3)
    q_BLHK = jax.random.normal(keys[0], (2, 5, 4, 8))
    k_BMGK, v_BMGK = (jax.random.normal(key, (2, 5, 2, 8)) for key in keys[1:])
    mask_BLM = attention_mask(jnp.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]]))
    expected = jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, mask=mask_BLM[:, None]
    )
    actual = attend(q_BLHK, k_BMGK, v_BMGK, mask_BLM)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_projection_is_that_of_an_einsum():
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    weight = jax.random.normal(jax.random.key(1), (8, 3, 4))
    axes = "BLD,DHK->BLHK"
    total = lambda function: lambda x, w: jnp.sum(jnp.sin(function(axes, x, w)))
    expected = jax.grad(total(jnp.einsum), argnums=(0, 1))(x, weight)
    on_one = functools.partial(project, partitioning())
    actual = jax.grad(total(on_one), argnums=(0, 1))(x, weight)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        actual,
        expected,
    )


def test_the_gradient_of_a_weight_is_not_rounded_to_bfloat16():
    x = jax.random.normal(jax.random.key(0), (64, 8), jnp.bfloat16)
    weight = jax.random.normal(jax.random.key(1), (8, 4))
    output = jnp.ones((64, 4), jnp.bfloat16)
    _, pull = jax.vjp(lambda w: project(partitioning(), "BD,DF->BF", x, w), weight)
    exact = x.astype(jnp.float32).T @ output.astype(jnp.float32)
    np.testing.assert_allclose(pull(output)[0], exact, rtol=1e-6)


def test_a_weight_is_gathered_in_bfloat16_and_its_gradient_cut_in_float32():
    mesh = partitioning(8, model=2)
    x = jnp.zeros((8, 16, 8), jnp.bfloat16)
    weight = jnp.zeros((8, 4))
    total = lambda x, w: jnp.sum(project(mesh, "BLD,DF->BLF", x, w))
    jaxpr = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(x, weight)
    found = [
        (str(out.aval.dtype), *eqn.params["sharding"].spec)
        for eqn in equations(jaxpr.jaxpr)
        if eqn.primitive.name == "sharding_constraint"
        for out in eqn.invars
        if out.aval.shape == weight.shape
    ]
    of = lambda dtype: [spec for name, *spec in found if name == dtype]
    # Forward and backward; the gradient ends as the weight is stored.
    assert of("bfloat16") == [[None, "model"], [None, "model"]]
    assert of("float32")[-1] == ["data", "model"]


def equations(jaxpr):
    """All equations of `jaxpr`, of those inside of it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("shift", [1, 100])
def test_only_distances_between_positions_matter(shift):
    model, params = small_model()
    batch = packed_batch()
    moved = batch.replace(positions_BL=batch.positions_BL + shift)
    np.testing.assert_allclose(
        logits(model, params, batch), logits(model, params, moved), atol=2e-4
    )


@pytest.mark.slow
def test_scanned_layers_equal_unrolled_ones():
    unrolled, params = small_model(scan_layers=False)
    scanned = Transformer(SMALL, unrolled.partitioning)
    batch = packed_batch()
    stacked = stack_layers(params, SMALL.num_layers)
    grads = jax.jit(jax.value_and_grad(total(unrolled, batch)))(params)
    stacked_grads = jax.jit(jax.value_and_grad(total(scanned, batch)))(stacked)
    expected = (grads[0], stack_layers(grads[1], SMALL.num_layers))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        stacked_grads,
        expected,
    )


@pytest.mark.slow
@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize("scan_layers", [True, False])
def test_recomputation_changes_no_number(remat, scan_layers):
    batch = packed_batch()
    plain, params = small_model(scan_layers=scan_layers)
    other, _ = small_model(remat=remat, scan_layers=scan_layers)
    expected = jax.jit(jax.grad(total(plain, batch)))(params)
    actual = jax.jit(jax.grad(total(other, batch)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        actual,
        expected,
    )


@pytest.mark.slow
@pytest.mark.parametrize("model_axis", [1, 2, 4])
def test_a_mesh_of_eight_gives_the_numbers_of_a_mesh_of_one(model_axis):
    model, params = small_model()
    mesh = partitioning(8, model=model_axis)
    sharded, sharded_params = small_model(mesh)
    jax.tree.map(np.testing.assert_array_equal, params, sharded_params)
    batch = packed_batch()
    expected = jax.jit(jax.value_and_grad(total(model, batch)))(params)
    actual = jax.jit(jax.value_and_grad(total(sharded, on_mesh(batch, mesh))))(
        sharded_params
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        actual,
        expected,
    )


@pytest.mark.slow
def test_a_bfloat16_model_keeps_float32_parameters_and_gradients():
    model, params = small_model(dtype="bfloat16")
    batch = packed_batch()
    unembedding = model.apply(params, batch)
    grads = jax.jit(jax.grad(total(model, batch)))(params)
    assert unembedding.hidden_BLD.dtype == jnp.bfloat16
    assert unembedding.logits().dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}


def test_an_untied_model_reads_and_writes_with_different_embeddings():
    model, params = small_model(tied_embedding=False)
    grads = jax.jit(jax.grad(total(model, packed_batch())))(params)["params"]
    assert set(grads) >= {"embedding_VD", "unembedding_VD"}
    assert jnp.abs(grads["unembedding_VD"]).sum(1).min() > 0


def test_a_softcap_bounds_the_logits():
    model, params = small_model(logit_softcap=0.5)
    values = logits(model, params, packed_batch())
    assert 0.4 < jnp.abs(values).max() <= 0.5


def test_silu_and_gelu_differ():
    gelu, params = small_model()
    silu = Transformer(dataclasses.replace(SMALL, activation="silu"), gelu.partitioning)
    batch = packed_batch()
    difference = logits(gelu, params, batch) - logits(silu, params, batch)
    assert jnp.abs(difference).max() > 1e-2


def test_abstract_parameters_have_the_dtype_asked_for_and_allocate_nothing():
    huge = dataclasses.replace(SMALL, num_layers=10_000, embed_dim=8192)
    abstract = abstract_params(Transformer(huge, partitioning(8)), "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(abstract)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_kv_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"activation": "relu"}, "'relu' is not one of gelu, silu"),
        ({"remat": "some"}, "remat='some' is not one of"),
        ({"dtype": "float16"}, "dtype='float16' is not one of"),
        ({"num_layers": 0}, "num_layers must be positive, got 0"),
    ],
)
def test_an_impossible_shape_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab_size": 66}, r"'vocab' of size 66 does not divide over .*'model': 4"),
        ({"mlp_dim": 66}, r"'mlp'.* does not divide over .*'model': 4"),
    ],
)
def test_a_shape_that_does_not_divide_over_the_mesh_is_refused(change, message):
    mesh = partitioning(8, model=4)
    model = Transformer(TransformerConfig(**vars(SMALL) | change), mesh)
    with pytest.raises(ValueError, match=message):
        abstract_params(model)
