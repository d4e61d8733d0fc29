"""Kernels against the reference. B batch, L length, H heads, G kv heads, K head_dim."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu import splash_attention

from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.mesh.shard_maps import sum_over_replicas
from salt_jax.model import attention
from salt_jax.model.attention_context import attention_mask
from salt_jax.model.attention_kernels import furthest_seen, splash
from salt_jax.model.attention_reference import reference
from salt_jax.model.attention_xla import xla
from salt_jax.model.cache import empty_cache
from salt_jax.model.transformer import Transformer, abstract_params
from tests.examples import (
    SMALL,
    on_mesh,
    on_platform,
    packed_batch,
    partitioning,
    small_model,
)

B, L, H = 4, 256, 4
LONG = 384  # No other dimension is as long.


@pytest.fixture
def interpreted(monkeypatch):
    """Splash on a CPU."""
    make = splash_attention.make_splash_mha_single_device
    make = functools.partial(make, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", make)


@pytest.fixture(scope="module")
def tpu():
    """Four TPU chips to compile for, none of which is here."""
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu, of dev")
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield topologies.get_topology_desc(
            platform="tpu", topology_name="v5e:2x2", num_slices=1
        ).devices


def arrays(num_kv_heads, *, head_dim=128, length=L):
    """Returns queries, keys, values and a gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 4)
    counts = (H, num_kv_heads, num_kv_heads, H)
    return tuple(
        jax.random.normal(key, (B, length, count, head_dim))
        for key, count in zip(keys, counts, strict=True)
    )


def packing(kind, length=L):
    """Returns segments_BL and prefix_BL; what is packed ends in padding."""
    column = np.arange(length)[None]
    cut = np.array([[100], [128], [200], [30]]) * length // 256
    is_second, is_padding = column >= cut, column >= length - 15
    if "packed" not in kind:
        is_second, is_padding = np.zeros((2, B, length), bool)
    segments_BL = np.where(is_padding, 0, 1 + is_second).astype(np.int32)
    begin = np.where(is_second, cut, 0)
    prefix_len = np.where(is_second, 5, 140 * length // 256)
    prefix_BL = (column < begin + prefix_len) & ~is_padding
    segments_BL = np.broadcast_to(segments_BL, (B, length))
    has_prefix = "prefix" in kind
    return jnp.asarray(segments_BL), jnp.asarray(prefix_BL) if has_prefix else None


def by_splash(partitioning, segments_BL, prefix_BL, **parts):
    """In blocks of 128, of which a causal kernel leaves out those of the future."""
    has_prefix = prefix_BL is not None
    furthest_BL = furthest_seen(segments_BL, prefix_BL) if has_prefix else None
    return lambda *q_k_v: splash(
        partitioning, *q_k_v, segments_BL, furthest_BL, widest_block=128, **parts
    )


def by_reference(segments_BL, prefix_BL, *, window=None, is_global=True, **parts):
    mask_BLM = attention_mask(segments_BL, prefix_BL)
    if window is not None:
        column = jnp.arange(segments_BL.shape[1])
        near_LM = column[None] > column[:, None] - window
        mask_BLM &= is_global | near_LM[None]
    return lambda q, k, v: reference(q, k, v, mask_BLM, **parts)


def check_equal(actual, expected, q_k_v_gradient):
    """Compares what two functions return, and all of their gradients."""
    *q_k_v, gradient = q_k_v_gradient

    def both(function, *q_k_v):
        value, pull = jax.vjp(function, *q_k_v)
        return value, pull(gradient)

    jax.tree.map(
        # Sums of 256 float32 terms of size 1, in another order.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        jax.jit(functools.partial(both, actual))(*q_k_v),
        jax.jit(functools.partial(both, expected))(*q_k_v),
    )


@pytest.mark.parametrize("parts", [{}, {"softcap": 3.0, "scale": 0.4}])
@pytest.mark.parametrize("kind, num_kv_heads", [("causal", H), ("packed prefix", 2)])
def test_xla_and_its_gradients_are_those_of_the_reference(kind, num_kv_heads, parts):
    rows = packing(kind, length=32)
    mask_BLM = attention_mask(*rows)
    check_equal(
        lambda q, k, v: xla(q, k, v, mask_BLM, **parts),
        by_reference(*rows, **parts),
        arrays(num_kv_heads, head_dim=8, length=32),
    )


@pytest.mark.parametrize(
    "kind, num_kv_heads",
    [
        ("causal", H),
        ("packed", 2),
        ("prefix", 1),
        ("packed prefix", 2),
    ],
)
def test_splash_and_its_gradients_are_those_of_the_reference(
    kind, num_kv_heads, interpreted
):
    rows = packing(kind)
    actual = by_splash(partitioning(), *rows)
    check_equal(actual, by_reference(*rows), arrays(num_kv_heads))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, window, is_global",
    [
        ("causal", 1, False),
        ("packed", 129, False),
        ("packed prefix", 40, False),
        ("packed prefix", 40, True),
    ],
)
def test_splash_sees_the_window_that_the_reference_does(
    kind, window, is_global, interpreted
):
    # Three blocks a row: local layers leave out the oldest.
    rows = packing(kind, length=LONG)
    parts = {"window": window, "softcap": 2.0}
    expected = by_reference(*rows, is_global=is_global, **parts)
    traced = jnp.arange(2)[int(is_global)] > 0
    actual = by_splash(partitioning(), *rows, is_global=traced, **parts)
    check_equal(actual, expected, arrays(2, length=LONG))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "packed prefix"])
def test_splash_bounds_scores_and_scales_queries_as_the_reference_does(
    kind, interpreted
):
    rows = packing(kind)
    parts = {"scale": 0.2, "softcap": 2.0}
    actual = by_splash(partitioning(), *rows, **parts)
    check_equal(actual, by_reference(*rows, **parts), arrays(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_axis, num_kv_heads, kv_heads",
    [(2, 2, None), (4, 2, None), (2, 4, "model")],
)
def test_splash_reads_the_right_heads_where_a_mesh_splits_them(
    model_axis, num_kv_heads, kv_heads, interpreted
):
    mesh = partitioning(2 * model_axis, model=model_axis)
    mesh = dataclasses.replace(mesh, rules=AxisRules(kv_heads=kv_heads))
    rows = packing("packed prefix")
    inputs = arrays(num_kv_heads)
    axes = ("heads", "kv_heads", "kv_heads", "heads")
    inputs = tuple(
        jax.device_put(x, mesh.sharding("batch", None, axis, None))
        for x, axis in zip(inputs, axes, strict=True)
    )
    rows = tuple(on_mesh(x, mesh) for x in rows)
    check_equal(by_splash(mesh, *rows), by_reference(*rows), inputs)


def test_the_furthest_position_says_all_that_the_mask_does():
    segments_BL, prefix_BL = packing("packed prefix")
    furthest_BL = furthest_seen(segments_BL, prefix_BL)
    is_own_BLM = segments_BL[:, :, None] == segments_BL[:, None, :]
    is_seen_BLM = jnp.arange(L)[None, None] <= furthest_BL[:, :, None]
    np.testing.assert_array_equal(
        is_own_BLM & is_seen_BLM, attention_mask(segments_BL, prefix_BL)
    )


@pytest.mark.parametrize("has_cache", [False, True])
@pytest.mark.parametrize("name, other", [("reference", "xla"), ("xla", "reference")])
def test_a_model_computes_its_attention_by_the_kernel_that_is_named(
    name, other, has_cache, monkeypatch
):
    model, params = small_model(attention=name)
    batch = packed_batch()
    cache = empty_cache(model, *batch.tokens_BL.shape) if has_cache else None
    monkeypatch.setattr(attention, other, None)
    jax.eval_shape(model.apply, params, batch, cache)
    monkeypatch.setattr(attention, name, None)
    with pytest.raises(TypeError, match="not callable"):
        jax.eval_shape(model.apply, params, batch, cache)


SPLASHED = {"head_dim": 128, "num_heads": 2, "num_kv_heads": 1, "remat": "full"}


def gradients(model, params, batch):
    """Returns the gradients of a sum over the tokens of `batch`."""

    def total(params):
        hidden_BLD = model.apply(params, batch).hidden_BLD
        return jnp.sum(jnp.sin(hidden_BLD) * batch.weights_BL[..., None])

    return jax.grad(total)(params)


WINDOWS = {
    "num_layers": 3,
    "sliding_window": 70,
    "global_every": 2,
    "local_rope_theta": 100.0,
    "attention_softcap": 5.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, WINDOWS])
def test_a_model_with_splash_has_the_gradients_of_one_with_the_reference(
    changes, interpreted
):
    # In a scan of rematerialized layers, on each replica of a mesh of eight.
    changes = SPLASHED | changes
    model, params = small_model(attention="reference", **changes)
    batch = packed_batch(length=L)
    batch = batch.replace(prefix_BL=(batch.positions_BL < 9) & (batch.segments_BL > 0))
    expected = jax.jit(gradients, static_argnums=0)(model, params, batch)
    mesh = MeshShape(replica=2, model=2).build()
    mesh = on_platform("tpu", Partitioning(mesh=mesh))
    split, params = small_model(mesh, attention="splash", **changes)
    one = split.clone(partitioning=mesh.of_one_replica())
    summed = sum_over_replicas(mesh, functools.partial(gradients, one))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        jax.jit(summed)(params, batch),
        expected,
    )


def compiled(devices, *, has_prefix, **changes):
    """Returns the gradient of a model compiled for `devices`, from shapes alone."""
    mesh = Partitioning(mesh=MeshShape(model=2).build(devices))
    shape = dataclasses.replace(SMALL, **SPLASHED | {"dtype": "bfloat16"} | changes)
    model = Transformer(shape, mesh)
    batch = packed_batch(length=LONG)
    batch = batch.replace(prefix_BL=batch.segments_BL == 1 if has_prefix else None)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=mesh.sharding("batch", None)
        ),
        batch,
    )

    def total(params, batch):
        return model.apply(params, batch).hidden_BLD.astype(jnp.float32).sum()

    return jax.jit(jax.grad(total)).lower(abstract_params(model), batch).compile()


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized", "without_cache")
@pytest.mark.parametrize(
    "changes, kernels, has_prefix",
    [({}, 1, False), ({}, 1, True), (WINDOWS, 2, True)],
)
def test_on_tpus_attention_compiles_to_kernels_forward_and_backward(
    changes, kernels, has_prefix, tpu
):
    changes |= {"remat": "save_dots"}  # The backward pass runs none of them again.
    text = compiled(tpu, has_prefix=has_prefix, **changes).as_text()
    for phase in ("splash_mha_fwd_segmented", "splash_mha_dkv_segmented"):
        calls = [x for x in text.splitlines() if "tpu_custom_call" in x and phase in x]
        assert len(calls) == kernels
    assert not re.search(rf"f(32|16)\[[\d,]*,{LONG},{LONG}\]", text)  # The scores.
