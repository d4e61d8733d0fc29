"""Arrays before they are made: shapes, dtypes and shardings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec


def sharded_shapes(boxed: Any, sharding_of: Callable[..., NamedSharding]) -> Any:
    """Returns a tree of shapes and dtypes with their shardings, and without boxes.

    Args:
      boxed: A tree of shapes and dtypes. A box names the logical axes of its array;
        others, such as the step, have none.
      sharding_of: From the logical axes of an array to its sharding.

    Raises:
      ValueError: an array does not divide over the mesh axes of its rule.
    """
    shardings = jax.tree.map(
        lambda axes: sharding_of(*axes),
        nn.get_partition_spec(boxed),
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )
    unboxed = jax.tree.map(
        lambda x, sharding: x.update(sharding=sharding), nn.unbox(boxed), shardings
    )
    jax.tree_util.tree_map_with_path(_check_divides, unboxed)
    return unboxed


def _check_divides(path: Any, x: jax.ShapeDtypeStruct) -> None:
    try:
        x.sharding.shard_shape(x.shape)
    except ValueError as error:
        raise ValueError(
            f"{jax.tree_util.keystr(path)} of shape {x.shape} does not divide over "
            f"{x.sharding.spec} of the mesh {dict(x.sharding.mesh.shape)}: change "
            "the mesh or the axis rule."
        ) from error
