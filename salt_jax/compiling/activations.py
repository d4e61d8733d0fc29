"""The activations that a forward pass saves for the backward pass, from tracing.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from salt_jax.model.transformer import Transformer, init_params
from salt_jax.training.compiled_updates import abstract_batch

# Rows per shard while tracing: a prime, so only batch dimensions are multiples of it.
_ODD = 7919


def saved_bytes(
    model: Transformer, rows: int, length: int, *, has_prefix: bool = False
) -> int:
    """Returns an upper bound of the saved activations of one chip, in bytes.

    Activations of feed-forward and heads are sharded as their parameters are. The
    compiler may save less.
    """
    partitioning = model.partitioning
    shards = partitioning.size("batch")
    params = partitioning.abstract(
        lambda key: init_params(model, key), jax.random.key(0)
    )
    batch = abstract_batch(partitioning, shards * _ODD, length, has_prefix=has_prefix)

    def backward(params: Any, batch: Any) -> Any:
        def hidden(params: Any) -> jax.Array:
            unembedding: Any = model.apply(params, batch)
            return unembedding.hidden_BLD

        return jax.vjp(hidden, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, batch))
    per_row = sum(_bytes(x, model) for x in kept if _is_of_batch(x, shards * _ODD))
    return int(per_row / _ODD * (rows / shards))


def _is_of_batch(x: Any, rows: int) -> bool:
    return any(size % rows == 0 and size for size in x.shape)


def _bytes(x: Any, model: Transformer) -> float:
    """Returns the bytes of one chip's part of `x`."""
    config, partitioning = model.config, model.partitioning
    split = {*partitioning.mesh_axes("batch")}
    if config.mlp_dim in x.shape:
        split |= {*partitioning.mesh_axes("mlp")}
    elif config.num_heads in x.shape and config.num_heads > 1:
        split |= {*partitioning.mesh_axes("heads")}
    elif config.remat == "full":  # Saves only the activations between blocks.
        split |= {*partitioning.mesh_axes("length")}
    parts = math.prod(partitioning.mesh.shape[axis] for axis in split)
    return math.prod(x.shape) * np.dtype(x.dtype).itemsize / parts
