"""Published peak rates and memory of accelerators, by JAX's `device_kind`.

FLOPs are for dense bfloat16 products. The vendors published the rates; none was
measured here. Usable memory on a TPU is the limit in the TPU compiler's out-of-memory
error.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """The published figures of one JAX device.

    A TPU v4 or v5p chip has two cores, which JAX presents as one device.
    """

    name: str
    flops_per_second: float  # bfloat16 products with float32 accumulation.
    memory_bytes_per_second: float
    usable_gib: float  # The memory that a compiled program may use.
    # To chips of the same slice (all ICI links together) or host (NVLink), one
    # direction; half of a published bidirectional figure.
    link_bytes_per_second: float | None = None
    torus_dimensions: int = 0  # Each has two of the links; 0: a switch connects all.
    # To other slices or hosts: the chip's share of its host's network, one direction.
    network_bytes_per_second: float | None = None
    # Of bfloat16 products. TPUs only, for which XLA's cost model counts cycles: its
    # figure for the largest products is 3 to 13 % above FLOPs / this.
    flops_per_cycle: int | None = None


# By `jax.Device.device_kind`.
CHIPS = {
    "TPU v4": Chip(
        name="TPU v4",
        flops_per_second=275e12,
        memory_bytes_per_second=1200e9,
        usable_gib=30.75,
        link_bytes_per_second=300e9,
        torus_dimensions=3,
        flops_per_cycle=2**18,
    ),
    "TPU v5 lite": Chip(
        name="TPU v5e",
        flops_per_second=197e12,
        memory_bytes_per_second=819e9,
        usable_gib=15.75,
        link_bytes_per_second=200e9,
        torus_dimensions=2,
        network_bytes_per_second=3.125e9,
        flops_per_cycle=2**17,
    ),
    "TPU v5": Chip(
        name="TPU v5p",
        flops_per_second=459e12,
        memory_bytes_per_second=2765e9,
        usable_gib=95.74,  # More than the published 95 GiB.
        link_bytes_per_second=600e9,
        torus_dimensions=3,
        network_bytes_per_second=6.25e9,
        flops_per_cycle=2**18,
    ),
    "TPU v6 lite": Chip(
        name="TPU v6e",
        flops_per_second=918e12,
        memory_bytes_per_second=1640e9,
        usable_gib=31.25,
        link_bytes_per_second=400e9,
        torus_dimensions=2,
        network_bytes_per_second=12.5e9,
        flops_per_cycle=2**19,
    ),
    # JAX preallocates 75% of a GPU; XLA_PYTHON_CLIENT_MEM_FRACTION changes that.
    "NVIDIA A100-SXM4-80GB": Chip(
        name="NVIDIA A100 80GB",
        flops_per_second=312e12,
        memory_bytes_per_second=2039e9,
        usable_gib=0.75 * 79,
        link_bytes_per_second=300e9,
        network_bytes_per_second=25e9,
    ),
    "NVIDIA H100 80GB HBM3": Chip(
        name="NVIDIA H100",
        flops_per_second=989e12,
        memory_bytes_per_second=3350e9,
        usable_gib=0.75 * 79,
        link_bytes_per_second=450e9,
        network_bytes_per_second=50e9,
    ),
    "NVIDIA H200": Chip(
        name="NVIDIA H200",
        flops_per_second=989e12,
        memory_bytes_per_second=4800e9,
        usable_gib=0.75 * 139,
        link_bytes_per_second=450e9,
        network_bytes_per_second=50e9,
    ),
    "NVIDIA B200": Chip(
        name="NVIDIA B200",
        flops_per_second=2250e12,
        memory_bytes_per_second=7700e9,
        usable_gib=0.75 * 178,
        link_bytes_per_second=900e9,
        network_bytes_per_second=50e9,
    ),
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of `device_kind`; None if it is not in `CHIPS`."""
    return CHIPS.get(device_kind)
