"""What one accelerator can do, by the name JAX gives its kind.

Peak rates are the makers' published figures for dense bfloat16 products and for memory;
none was measured here. How much of a TPU's memory a program may use is what the TPU
compiler says when it refuses one that is too large.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """The published figures of one device, as JAX counts devices.

    Where a TPU chip has two cores, v4 and v5p, JAX makes one device of both.
    """

    name: str
    flops_per_second: float  # bfloat16 products, float32 sums.
    memory_bytes_per_second: float
    memory_gib: float
    usable_gib: float  # What a compiled program may use of it.


# By `jax.Device.device_kind`.
CHIPS = {
    "TPU v4": Chip(
        name="TPU v4",
        flops_per_second=275e12,
        memory_bytes_per_second=1200e9,
        memory_gib=32,
        usable_gib=30.75,
    ),
    "TPU v5 lite": Chip(
        name="TPU v5e",
        flops_per_second=197e12,
        memory_bytes_per_second=819e9,
        memory_gib=16,
        usable_gib=15.75,
    ),
    "TPU v5": Chip(
        name="TPU v5p",
        flops_per_second=459e12,
        memory_bytes_per_second=2765e9,
        memory_gib=95,
        usable_gib=95.74,  # More than is published.
    ),
    "TPU v6 lite": Chip(
        name="TPU v6e",
        flops_per_second=918e12,
        memory_bytes_per_second=1640e9,
        memory_gib=32,
        usable_gib=31.25,
    ),
    # JAX takes three quarters of a GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION says
    # otherwise.
    "NVIDIA A100-SXM4-80GB": Chip(
        name="NVIDIA A100 80GB",
        flops_per_second=312e12,
        memory_bytes_per_second=2039e9,
        memory_gib=80,
        usable_gib=0.75 * 79,
    ),
    "NVIDIA H100 80GB HBM3": Chip(
        name="NVIDIA H100",
        flops_per_second=989e12,
        memory_bytes_per_second=3350e9,
        memory_gib=80,
        usable_gib=0.75 * 79,
    ),
    "NVIDIA H200": Chip(
        name="NVIDIA H200",
        flops_per_second=989e12,
        memory_bytes_per_second=4800e9,
        memory_gib=141,
        usable_gib=0.75 * 139,
    ),
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the figures of a kind of device; None for one that is not known."""
    return CHIPS.get(device_kind)
