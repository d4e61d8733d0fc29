"""Whether an experiment fits the devices, asked before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax

GIB = 2**30


def available_per_device(device: jax.Device) -> int:
    """Returns the bytes that one device can hold.

    Devices of the CPU share the memory of the host.
    """
    if device.platform == "cpu":
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return host // jax.local_device_count()
    return device.memory_stats()["bytes_limit"]


def check_fits(parts: Mapping[str, int], available: int) -> None:
    """Refuses what cannot fit.

    Args:
      parts: Bytes on one device, by what they are for. A lower bound: activations
        come on top.
      available: Bytes that one device has.

    Raises:
      ValueError: the parts together are larger than `available`.
    """
    needed = sum(parts.values())
    if needed <= available:
        return
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    raise ValueError(
        f"This experiment needs at least {needed / GIB:.1f} GiB a device ({listed}), "
        f"and a device has {available / GIB:.1f} GiB: use more devices, a mesh that "
        "splits more, or a smaller model."
    )
