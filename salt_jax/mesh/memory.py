"""Device memory: what arrays take of it, before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

GIB = 2**30


def bytes_per_device(abstract_tree: Any) -> int:
    """Returns the bytes of a tree with shardings on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(abstract_tree)
    )


def available_per_device(device: jax.Device) -> int:
    """Returns the memory of one device, in bytes.

    CPU devices share the memory of the host equally.
    """
    if device.platform == "cpu":
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return host // jax.local_device_count()
    return device.memory_stats()["bytes_limit"]


def check_fits(parts: Mapping[str, int], available: int) -> None:
    """Checks that the parts fit into the memory of one device.

    Args:
      parts: Bytes per device, by purpose. They are a lower bound: activations are not
        among them.
      available: Bytes that one device has.

    Raises:
      ValueError: the sum of the parts exceeds `available`.
    """
    needed = sum(parts.values())
    if needed <= available:
        return
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    raise ValueError(
        f"The run needs at least {needed / GIB:.1f} GiB per device ({listed}), "
        f"and a device has {available / GIB:.1f} GiB: use more devices, a mesh that "
        "shards more, or a smaller model."
    )
