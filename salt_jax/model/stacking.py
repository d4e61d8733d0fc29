"""Deeper models made of the blocks of a smaller one.

Blocks only add to their input. A block that adds nothing is the identity, so a deeper
model may compute what the smaller one does.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from salt_jax.model.config import TransformerConfig
from salt_jax.model.parameters import STACK, layer_name

ORDERS = ("whole", "each")
OUTPUTS = ("zero", "copied", "divided")
# What a block adds is scaled by these, and with post-norms by the scales of those.
_OUTPUTS = (("attention", "out"), ("mlp", "down"))
_POST_NORMS = (("attention_post_norm", "scale"), ("mlp_post_norm", "scale"))

Role = tuple[str, ...]  # The keys of a parameter within its block.
Shaped = Any  # An array as shape, dtype and sharding.


def sources(order: str, num_small: int, num_layers: int) -> list[int]:
    """Returns which block of the smaller model each block is made from.

    Args:
      order: "whole" repeats the stack, 0 1 2 0 1 2, and "each" every block in place,
        0 0 1 1 2 2. If the depths do not divide, the last repetition of the stack is
        cut off, and some blocks are repeated once more than others.
      num_small: The number of blocks of the smaller model.
      num_layers: The number of blocks of the deeper model.
    """
    if order == "whole":
        return [layer % num_small for layer in range(num_layers)]
    return [layer * num_small // num_layers for layer in range(num_layers)]


def check_depths(
    small: TransformerConfig, model: TransformerConfig, layers: Sequence[int]
) -> None:
    """Checks that blocks of `small` can be those of `model`.

    Args:
      small: The smaller model.
      model: The deeper model.
      layers: The block of `small` that each block of `model` is made from.

    Raises:
      ValueError: the models differ in more than their depth, `model` is no deeper, or a
        local block would become a global one.
    """
    other = [x for x in model.differences(small) if x not in _DEPTH_FIELDS]
    if other:
        name = other[0]
        raise ValueError(
            f"it has {name}={getattr(small, name)!r}, and the student "
            f"{getattr(model, name)!r}: only the depth may differ."
        )
    if small.num_layers >= model.num_layers:
        raise ValueError(
            f"it has {small.num_layers} layers, and the student {model.num_layers}: "
            "the student must be deeper. To start from a model of the same depth, give "
            "its path alone."
        )
    for layer, source in enumerate(layers):
        if _is_global(model, layer) != _is_global(model, source):
            kind = "global" if _is_global(model, layer) else "local"
            raise ValueError(
                f"its layer {source} would become layer {layer}, which is {kind}: "
                f"every {model.global_every}-th layer is global, counted from 1. Use "
                f"order='whole', and a multiple of {model.global_every} layers."
            )


def small_like(like: Any, small: TransformerConfig, model: TransformerConfig) -> Any:
    """Returns the parameters of `small` as shapes, dtypes and shardings.

    Args:
      like: The same of `model`; arrays of the smaller one are sharded as its arrays.
      small: The smaller model.
      model: The deeper model.
    """
    inner, blocks = _split(like, model)
    for role, arrays in blocks.items():
        one = _of_layer(arrays[0]) if model.scan_layers else arrays[0]
        if small.scan_layers:
            _put(inner, (STACK, *role), _of_stack(one, small.num_layers))
        else:
            for layer in range(small.num_layers):
                _put(inner, (layer_name(layer), *role), one)
    return {"params": inner}


def stacked(
    params: Any,
    like: Any,
    small: TransformerConfig,
    model: TransformerConfig,
    layers: Sequence[int],
    outputs: str,
) -> Any:
    """Returns the parameters of the deeper model, and deletes those of the smaller.

    One kind of parameter is made after the other, so that hardly more than the deeper
    model is in memory.

    Args:
      params: The parameters of `small`, on the shardings of `small_like`.
      like: The parameters to return, as shapes, dtypes and shardings.
      small: The smaller model.
      model: The deeper model.
      layers: The block of `small` that each block of `model` is made from.
      outputs: What added blocks add to their input: "zero" nothing, so that the deeper
        model computes what the smaller does; "copied" what the block they are made from
        adds; "divided" the same, divided among the copies of a block, itself included.
    """
    inner, blocks = _split(params, small)
    _, wanted = _split(like, model)
    factors = _factors(layers, outputs)
    scaled = _POST_NORMS if model.post_norms else _OUTPUTS
    offset = 1.0 if model.post_norms and model.zero_centered_norm else 0.0
    for role, arrays in blocks.items():
        by = factors if role[-2:] in scaled else [1.0] * len(layers)

        def grow(arrays: Sequence[jax.Array], by: Sequence[float] = by) -> list[Any]:
            rows = arrays[0] if small.scan_layers else arrays
            grown = [
                _scaled(rows[source], factor, offset)
                for source, factor in zip(layers, by, strict=True)
            ]
            return [jnp.stack(grown)] if model.scan_layers else grown

        shardings = [x.sharding for x in wanted[role]]
        made = jax.jit(grow, out_shardings=shardings)(arrays)
        for array in arrays:
            array.delete()
        keys = [STACK] if model.scan_layers else map(layer_name, range(len(layers)))
        for key, array in zip(keys, made, strict=True):
            _put(inner, (key, *role), array)
    return {"params": inner}


_DEPTH_FIELDS = ("num_layers", "scan_layers")


def _factors(layers: Sequence[int], outputs: str) -> list[float]:
    """Returns what the output of each block is multiplied by."""
    if outputs == "copied":
        return [1.0] * len(layers)
    copies = collections.Counter(layers)
    if outputs == "divided":
        return [1.0 / copies[source] for source in layers]
    is_first = [source not in layers[:layer] for layer, source in enumerate(layers)]
    return [float(first) for first in is_first]


def _scaled(x: jax.Array, factor: float, offset: float) -> jax.Array:
    """Returns x with (x + offset) multiplied by `factor`."""
    if factor == 1.0:
        return x
    if factor == 0.0:
        return jnp.full_like(x, -offset)
    return (x + offset) * factor - offset


def _is_global(model: TransformerConfig, layer: int) -> bool:
    return model.sliding_window is None or (layer + 1) % model.global_every == 0


def _split(
    params: Any, model: TransformerConfig
) -> tuple[dict[str, Any], dict[Role, list[Any]]]:
    """Returns what is in no block, and of each role the stack or one array a block."""
    inner = dict(params["params"])
    names = [STACK] if model.scan_layers else map(layer_name, range(model.num_layers))
    blocks: dict[Role, list[Any]] = collections.defaultdict(list)
    for name in names:
        for path, x in jax.tree_util.tree_leaves_with_path(inner.pop(name)):
            blocks[tuple(key.key for key in path)].append(x)
    return inner, dict(blocks)


def _put(tree: dict[str, Any], path: Role, value: Any) -> None:
    *folders, name = path
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value


def _of_layer(stack: Shaped) -> Shaped:
    spec = PartitionSpec(*stack.sharding.spec[1:])
    return _shaped(stack, stack.shape[1:], spec)


def _of_stack(one: Shaped, num_layers: int) -> Shaped:
    spec = PartitionSpec(None, *one.sharding.spec)
    return _shaped(one, (num_layers, *one.shape), spec)


def _shaped(x: Shaped, shape: tuple[int, ...], spec: PartitionSpec) -> Shaped:
    sharding = NamedSharding(x.sharding.mesh, spec)
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)
