import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from salt_jax.mesh.memory import bytes_per_device
from salt_jax.mesh.partitioning import AxisRules
from salt_jax.model.quantized import (
    Int8,
    abstract_held,
    hold,
    quantize,
    reading_model,
)
from salt_jax.model.transformer import abstract_params
from tests.examples import (
    on_mesh,
    packed_batch,
    partitioning,
    small_model,
    stack_layers,
)

# Of each of the two layers, and of each row of the embedding.
SCALES = {
    "embedding_VD": (64, 1),
    "query": (2, 1, 4, 8),
    "key": (2, 1, 2, 8),
    "value": (2, 1, 2, 8),
    "out": (2, 1, 1, 32),
    "gate": (2, 1, 64),
    "up": (2, 1, 64),
    "down": (2, 1, 32),
}


@functools.cache
def held(mesh=None, **changes):
    """A small model, its float32 parameters and the same as int8."""
    model, params = small_model(mesh, **changes)
    copy = jax.tree.map(jnp.copy, params)  # Those that become int8 are given up.
    return model, params, hold(copy, abstract_held(model, "int8"))


def is_int8(x):
    return isinstance(x, Int8)


def logits(model, params, mesh=None):
    batch = packed_batch() if mesh is None else on_mesh(packed_batch(), mesh)
    return jax.jit(model.apply)(params, batch).logits()


def boxes(params):
    """Returns the matrices held as int8 by name, each once."""
    flat = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_int8)
    return {path[-1].key: x for path, x in flat if is_int8(x)}


def test_a_matrix_comes_back_to_within_half_a_step_of_its_channel():
    _, params, as_int8 = held(tied_embedding=False)

    def check(w, x):
        if not is_int8(x):
            np.testing.assert_array_equal(x, w)
            return
        # A rounding of the quotient and one of the product come on top.
        bound = x.scale * 0.5 + 1e-6 * jnp.abs(w)
        assert (jnp.abs(x.unbox() - w) <= bound).all()

    jax.tree.map(check, params, as_int8)


def test_each_output_channel_has_a_scale_and_each_row_of_the_embedding():
    _, _, as_int8 = held()
    assert {name: x.scale.shape for name, x in boxes(as_int8).items()} == SCALES
    for x in boxes(as_int8).values():
        summed = [i for i, size in enumerate(x.scale.shape) if size == 1]
        largest = jnp.abs(x.values.astype(jnp.int32)).max(axis=summed)
        assert (largest == 127).all()


def test_only_norms_are_not_held_as_int8():
    _, _, as_int8 = held(tied_embedding=False)
    flat = jax.tree_util.tree_leaves_with_path(as_int8, is_leaf=is_int8)
    others = {path[-1].key: x.dtype for path, x in flat if not is_int8(x)}
    assert others == {"scale": jnp.float32}
    assert {x.values.dtype for x in boxes(as_int8).values()} == {jnp.dtype("int8")}


def test_matrices_are_given_up_as_they_become_int8():
    model, params, _ = held()
    copy = jax.tree.map(jnp.copy, params)
    hold(copy, abstract_held(model, "int8"))
    flat = jax.tree_util.tree_leaves_with_path(copy)
    kept = {path[-1].key for path, x in flat if not x.is_deleted()}
    assert kept == {"scale"}


def test_a_large_number_costs_its_own_channel_only_and_zeros_stay_zeros():
    w = jnp.ones((4, 3)).at[0, 0].set(1000.0).at[:, 2].set(0.0)
    values, scale = quantize(w, (0,))
    opened = values * scale
    np.testing.assert_allclose(opened[:, 1], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(opened[1:, 0], 0.0)
    np.testing.assert_array_equal(opened[:, 2], 0.0)
    assert (scale > 0.0).all()


@pytest.mark.slow
def test_a_model_reads_int8_as_the_numbers_they_stand_for():
    model, params, as_int8 = held(scan_layers=False)
    found = logits(model, as_int8)
    np.testing.assert_allclose(found, logits(model, nn.unbox(as_int8)), atol=1e-5)
    assert jnp.abs(found - logits(model, params)).max() > 1e-3


def test_int8_is_opened_in_the_dtype_that_the_model_computes_in():
    _, _, as_int8 = held(dtype="bfloat16")
    matrices = [x.unbox() for x in boxes(as_int8).values()]
    assert {x.dtype for x in matrices} == {jnp.dtype("bfloat16")}


def test_scanned_layers_of_int8_equal_unrolled_ones():
    scanned, _, stacked = held()
    unrolled, params, as_int8 = held(scan_layers=False)
    restacked = hold(stack_layers(params, 2), abstract_held(scanned, "int8"))
    np.testing.assert_allclose(
        logits(scanned, restacked), logits(unrolled, as_int8), atol=1e-5
    )
    assert jax.tree.structure(restacked) == jax.tree.structure(stacked)


@pytest.mark.parametrize("model_axis", [1, 2])
def test_int8_on_a_mesh_of_eight_is_that_of_one_bit_for_bit(model_axis):
    mesh = partitioning(8, model=model_axis)
    model, _, on_eight = held(mesh)
    alone, _, on_one = held()
    for x, y in zip(jax.tree.leaves(on_eight), jax.tree.leaves(on_one), strict=True):
        np.testing.assert_array_equal(x, y)
    like = abstract_held(model, "int8")
    assert jax.tree.map(lambda x: x.sharding, on_eight) == jax.tree.map(
        lambda x: x.sharding, like
    )
    np.testing.assert_allclose(
        logits(model, on_eight, mesh), logits(alone, on_one), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("rules", [{}, {"batch": ("replica", "data", "model")}])
def test_a_matrix_moves_between_devices_as_int8_and_is_opened_a_layer_at_a_time(rules):
    mesh = dataclasses.replace(partitioning(8, model=2), rules=AxisRules(**rules))
    sizes = dict(num_layers=3, embed_dim=128, mlp_dim=512, dtype="bfloat16")
    model, _, as_int8 = held(mesh, **sizes)
    batch = on_mesh(packed_batch(), mesh)
    reader = reading_model(model, "int8")
    program = jax.jit(reader.apply).lower(as_int8, batch).compile().as_text()
    np.testing.assert_allclose(
        jax.jit(reader.apply)(as_int8, batch).hidden_BLD.astype(jnp.float32),
        jax.jit(model.apply)(as_int8, batch).hidden_BLD.astype(jnp.float32),
        atol=0.1,
    )
    moved = re.findall(r" = (\w+)\[([\d,]*)\]\S* all-gather\(", program)
    assert len(moved) >= len(SCALES)
    assert {dtype for dtype, _ in moved} - {"s32"} == {"s8"}  # Token ids are int32.
    # Of all layers at once there are norms and scales: vectors.
    stacks = re.findall(r"\b(?:bf16|f32)\[3,([\d,]+)\]", program)
    assert stacks
    assert max(np.prod([int(n) for n in stack.split(",")]) for stack in stacks) <= 512


def test_int8_is_counted_as_it_is_held():
    model, _, as_int8 = held(partitioning(8, model=2))
    counted = bytes_per_device(abstract_held(model, "int8"))
    device = jax.devices()[5]
    assert counted == sum(
        shard.data.nbytes
        for x in jax.tree.leaves(as_int8)
        for shard in x.addressable_shards
        if shard.device == device
    )
    matrices = bytes_per_device({k: x.values for k, x in boxes(as_int8).items()})
    assert matrices < counted < bytes_per_device(abstract_params(model, "bfloat16"))


def test_int8_cannot_be_written_by_a_module():
    with pytest.raises(TypeError, match="int8"):
        boxes(held()[2])["gate"].replace_boxed(None)
