"""The bytes of a checkpoint that each chip and host reads when it is restored."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from salt_jax.mesh.memory import bytes_per_device


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestoreLayout:
    """The size of a checkpoint: in total, per chip and per host."""

    num_arrays: int
    total_bytes: int
    bytes_per_chip: int
    bytes_per_host: int  # Without duplicates among the chips of a host.


def restore_layout(state: Any) -> RestoreLayout:
    """Returns the layout of an abstract `state`, whose shardings must divide it."""
    leaves = jax.tree.leaves(state)
    return RestoreLayout(
        num_arrays=len(leaves),
        total_bytes=sum(x.size * np.dtype(x.dtype).itemsize for x in leaves),
        bytes_per_chip=bytes_per_device(state),
        bytes_per_host=sum(_bytes_on_first_host(x) for x in leaves),
    )


def _bytes_on_first_host(x: jax.ShapeDtypeStruct) -> int:
    sharding: Any = x.sharding
    host = sharding.mesh.devices.flat[0].process_index
    shards = {
        tuple((part.start, part.stop) for part in index)
        for device, index in sharding.devices_indices_map(x.shape).items()
        if device.process_index == host
    }
    shard = math.prod(sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
    return len(shards) * shard
