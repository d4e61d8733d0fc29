"""GPUs that XLA compiles for without having one.

The figures are those that the CUDA driver reports for each GPU, as XLA's own target
files (xla/backends/gpu/target_config/specs) and NVIDIA's data sheets give them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

GPUS_PER_HOST = 8  # What NVLink joins on the boards of all of them.
# XLA tunes its kernels by running them, for which it has no GPU.
WITHOUT_A_GPU = {"xla_gpu_autotune_level": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuTarget:
    """What XLA has to know of a GPU to compile for it."""

    kind: str  # `jax.Device.device_kind`.
    compute_capability: tuple[int, int]
    cores: int
    units_per_core: int  # For float32.
    clock_ghz: float
    shared_bytes_per_core: int
    shared_bytes_per_block: int  # At most; the default is 48 KiB.
    l2_bytes: int
    memory_bytes: int
    memory_bytes_per_second: int

    def text(self) -> str:
        """Returns XLA's GpuTargetConfigProto, in protobuf's text form."""
        major, minor = self.compute_capability
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {self.cores}
  fpus_per_core: {self.units_per_core}
  clock_rate_ghz: {self.clock_ghz}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared_bytes_per_block}
  shared_memory_per_core: {self.shared_bytes_per_core}
  l2_cache_size: {self.l2_bytes}
  device_memory_size: {self.memory_bytes}
  memory_bandwidth: {self.memory_bytes_per_second}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 9 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{self.kind}"
"""


_HOPPER: dict[str, Any] = {
    "compute_capability": (9, 0),
    "cores": 132,
    "units_per_core": 128,
    "clock_ghz": 1.98,
    "shared_bytes_per_core": 233472,
    "shared_bytes_per_block": 232448,
    "l2_bytes": 52428800,
}

GPUS = {
    "a100": GpuTarget(
        kind="NVIDIA A100-SXM4-80GB",
        compute_capability=(8, 0),
        cores=108,
        units_per_core=64,
        clock_ghz=1.41,
        shared_bytes_per_core=167936,
        shared_bytes_per_block=166912,
        l2_bytes=41943040,
        memory_bytes=85100068864,
        memory_bytes_per_second=2039040000000,
    ),
    "h100": GpuTarget(
        kind="NVIDIA H100 80GB HBM3",
        memory_bytes=84929347584,
        memory_bytes_per_second=3352320000000,
        **_HOPPER,
    ),
    "h200": GpuTarget(
        kind="NVIDIA H200",
        memory_bytes=151397597184,
        memory_bytes_per_second=4800000000000,
        **_HOPPER,
    ),
    "b200": GpuTarget(
        kind="NVIDIA B200",
        compute_capability=(10, 0),
        cores=148,
        units_per_core=128,
        clock_ghz=1.965,
        shared_bytes_per_core=233472,
        shared_bytes_per_block=232448,
        l2_bytes=132644864,
        memory_bytes=191514411008,
        memory_bytes_per_second=7672320000000,
    ),
}


def has_compiler() -> bool:
    """Returns whether a CUDA plugin of JAX is installed, in which the compiler is."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return any(importlib.util.find_spec(name) for name in plugins)


def open_gpus(name: str) -> Sequence[jax.Device]:
    """Returns the GPUs called `name`, such as "h100:8" or "h100:8x4".

    Args:
      name: The family, GPUs per host and hosts (1 by default).

    Raises:
      ValueError: no host has so many GPUs, or XLA's compiler for GPUs is missing.
    """
    family, _, size = name.partition(":")
    sizes = size.split("x")
    if not all(one.isdecimal() and int(one) for one in sizes) or len(sizes) > 2:
        raise ValueError(
            f"--topology={name} is not {family}:GPUS or {family}:GPUSxHOSTS, such as "
            f"{family}:8x4 for four hosts."
        )
    per_host, hosts = int(sizes[0]), int(sizes[1]) if len(sizes) == 2 else 1
    if per_host > GPUS_PER_HOST:
        raise ValueError(
            f"--topology={name} has {per_host} GPUs per host, which has at most "
            f"{GPUS_PER_HOST}: write {family}:{GPUS_PER_HOST}xHOSTS."
        )
    if not has_compiler():
        raise ValueError(
            f"--topology={name} needs XLA's compiler for GPUs, which is not installed: "
            "run pip install -e '.[cuda]'."
        )
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=GPUS[family].text(),
            topology=f"1x{hosts}x{per_host}",
        ).devices
    except Exception as error:
        raise ValueError(
            f"XLA's compiler for GPUs does not support --topology={name} ({error})."
        ) from error
