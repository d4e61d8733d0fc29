"""`jax.shard_map` over the devices of a mesh, and over its replicas.

The one may be inside the other: what is computed apart for each replica may contain
parts that are computed apart on each device of the replica.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from salt_jax.mesh.partitioning import REPLICA, Partitioning


def on_devices(
    partitioning: Partitioning,
    body: Callable[..., Any],
    in_specs: Any,
    out_specs: Any,
) -> Callable[..., Any]:
    """Returns `body`, called on each device with its own part of every array.

    Args:
      partitioning: The mesh. That of one replica is for use in `sum_over_replicas`,
        where arrays are those of the replica.
      body: The function; it may exchange arrays along the axes of the mesh.
      in_specs: How the arguments are split over the mesh, as `jax.shard_map` takes it.
      out_specs: The same of the results.
    """
    apart = {REPLICA} if partitioning.is_one_replica else set()
    return jax.shard_map(
        body,
        mesh=None if apart else partitioning.mesh,  # None: that of the code around.
        axis_names=set(partitioning.mesh.axis_names) - apart,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,  # A kernel's outputs do not declare how they vary.
    )


def sum_over_replicas(
    partitioning: Partitioning, sums: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Returns `sums(shared, batch)`, called for each replica's rows, then added up.

    Not a `jax.vmap` over replicas: it adds a dimension of size 1 to every array of a
    device, and with that XLA for TPUs all-reduces within a replica what it would
    reduce-scatter, at twice the bytes.

    Args:
      partitioning: The mesh; `sums` uses the partitioning of one replica.
      sums: Returns a tree of arrays. `shared` is the same on all replicas.
    """

    def of_one_replica(shared, batch):
        return jax.lax.psum(sums(shared, batch), REPLICA)

    return jax.shard_map(
        of_one_replica,
        mesh=partitioning.mesh,
        axis_names={REPLICA},
        in_specs=(PartitionSpec(), PartitionSpec(REPLICA)),
        out_specs=PartitionSpec(),
        check_vma=False,  # `on_devices` inside it does not check either.
    )
