"""int8 weights for teachers and scorers, which are never trained.

Quantization is symmetric, with one float32 scale per output channel. The channels of an
embedding are its rows, for looking up tokens and for logits alike.

Modules do not know of it: `Int8` is a Flax metadata box, and Flax unboxes a parameter
when a module asks for it. Inside the scan over layers, that is one layer at a time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax.core.meta import AxisMetadata
from jax.sharding import NamedSharding, PartitionSpec

from salt_jax.mesh.partitioning import MeshAxes, Partitioning
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.config import DTYPES
from salt_jax.model.parameters import ParameterFacts
from salt_jax.model.transformer import (
    Params,
    Transformer,
    abstract_params,
    parameter_facts,
)

HELD_DTYPES = (*DTYPES, "int8")  # For the parameters of a teacher or a scorer.


@flax.struct.dataclass
class Int8(AxisMetadata[jax.Array]):
    """A matrix, or a stack of them, as int8 values times a scale per output channel."""

    values: jax.Array  # int8, from -127 to 127.
    scale: jax.Array  # float32; of size 1 in dimensions that the product sums over.
    dtype: str = flax.struct.field(pytree_node=False)  # Of the dequantized matrix.
    # The sharding to compute with. The spec of a stack has a leading entry for layers.
    gathered: NamedSharding = flax.struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        """Returns the dequantized matrix; the all-gather moves int8."""
        spec = PartitionSpec(*self.gathered.spec[-self.values.ndim :])
        sharding = NamedSharding(self.gathered.mesh, spec)
        values = jax.lax.with_sharding_constraint(self.values, sharding)
        return (values.astype(jnp.float32) * self.scale).astype(self.dtype)

    def replace_boxed(self, val: Any) -> Any:
        raise TypeError("An int8 parameter is read-only.")

    def add_axis(self, index: int, params: dict[Any, Any]) -> Int8:
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Int8:
        return self


def abstract_held(model: Transformer, dtype: str) -> Params:
    """Returns the parameters of a frozen model, held in `dtype`, as shapes.

    Args:
      model: The model, with its mesh, rules and compute dtype.
      dtype: One of `HELD_DTYPES`.
    """
    if dtype != "int8":
        return abstract_params(model, dtype)

    def describe(facts: ParameterFacts, x: jax.ShapeDtypeStruct) -> Any:
        return _describe(facts, x, model) if facts.is_matrix else x

    return jax.tree.map(describe, parameter_facts(model), abstract_params(model))


def reading_model(model: Transformer, dtype: str) -> Transformer:
    """Returns `model` with rules for parameters held in `dtype`.

    An int8 parameter is already gathered when it is unboxed, so the rules say that
    nothing is left to gather.
    """
    if dtype != "int8":
        return model
    partitioning = model.partitioning
    compute = {
        name: partitioning.compute_axes(name) or None
        for name in ("embed", "heads", "kv_heads", "head_dim", "mlp")
    }
    rules = dataclasses.replace(
        partitioning.rules,
        vocab=partitioning.rules.act_vocab,
        vocab_embed=None,
        **compute,
    )
    return model.clone(partitioning=dataclasses.replace(partitioning, rules=rules))


def as_exported(like: Params, dtype: str) -> Params:
    """Returns `like` with every parameter an array of `dtype`: no int8."""

    def plain(x: Any) -> Any:
        return (x.values if _is_int8(x) else x).update(dtype=jnp.dtype(dtype))

    return jax.tree.map(plain, like, is_leaf=_is_int8)


def hold(params: Params, like: Params) -> Params:
    """Returns `params` in the dtypes of `like`, on the same shards.

    Each array that is quantized is deleted at once, so at most one is in memory twice.
    """
    return jax.tree.map(_hold, params, like)


def quantize(x: jax.Array, summed: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns int8 values and float32 scales with values * scales = x, rounded.

    The largest absolute value of each channel becomes 127.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=summed, keepdims=True)
    scale = jnp.where(largest == 0.0, 1.0, largest / 127.0)
    return jnp.round(x / scale).astype(jnp.int8), scale


def _describe(facts: ParameterFacts, x: Any, model: Transformer) -> Int8:
    spec = [*x.sharding.spec] + [None] * (x.ndim - len(x.sharding.spec))
    gathered = [_gathered(axes, model.partitioning) for axes in spec]
    if "vocab" in facts.axes:
        gathered = [*VocabShards(model.partitioning).used_spec]
    summed = facts.summed_dimensions
    # Scales are small, so each device holds the scales of everything it reads.
    scale_spec = [None if i in summed else axes for i, axes in enumerate(gathered)]
    scale_shape = tuple(1 if i in summed else size for i, size in enumerate(x.shape))
    mesh = model.partitioning.mesh
    scale: Any = jax.ShapeDtypeStruct(
        scale_shape,
        jnp.float32,
        sharding=NamedSharding(mesh, PartitionSpec(*scale_spec)),
    )
    return Int8(
        values=x.update(dtype=jnp.dtype("int8")),
        scale=scale,
        dtype=model.config.dtype,
        gathered=NamedSharding(mesh, PartitionSpec(*gathered)),
    )


def _gathered(axes: MeshAxes, partitioning: Partitioning) -> MeshAxes:
    """Returns `axes` without the mesh axes that split the batch."""
    tokens = partitioning.mesh_axes("batch")
    axes = (axes,) if isinstance(axes, str) else axes or ()
    return tuple(axis for axis in axes if axis not in tokens) or None


def _hold(x: jax.Array, like: Any) -> Any:
    if not _is_int8(like):
        return x.astype(like.dtype)
    summed = tuple(i for i, size in enumerate(like.scale.shape) if size == 1)
    shardings = like.values.sharding, like.scale.sharding
    held = jax.jit(quantize, static_argnums=1, out_shardings=shardings)(x, summed)
    x.delete()
    values, scale = held
    return like.replace(values=values, scale=scale)


def _is_int8(x: Any) -> bool:
    return isinstance(x, Int8)
