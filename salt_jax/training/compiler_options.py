"""Options with which the compiler is given the updates of some chips."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

# By `jax.Device.device_kind`. A product may use half of the 128 MiB of a v5e's on-chip
# memory for its tiles, where the default is an eighth. The compiler then estimates the
# products of a plain step at 2.8B on v5e:16x16 at 1,320 ms instead of 1,493.
_OPTIONS = {"TPU v5 lite": {"xla_tpu_scoped_vmem_limit_kib": 65_536}}

# GPUs; seen in a step at 1.5B for 2 hosts of 8 H100s, compiled by JAX 0.10.2.
#
# Up to 256 MiB travel as one: the 13 collective operations of a layer's backward pass
# become 6, each with products between start and end. A loop of two layers a turn swaps
# the buffers of what moves ahead of its layer; with one, 451 MiB a layer were copied.
# The latency-hiding scheduler is on, whether asked for or not.
_COMBINED_BYTES = 256 * 2**20
_GPU: dict[str, Any] = {
    "xla_gpu_all_gather_combine_threshold_bytes": _COMBINED_BYTES,
    "xla_gpu_reduce_scatter_combine_threshold_bytes": _COMBINED_BYTES,
    "xla_gpu_enable_while_loop_double_buffering": True,
}
# The weights of a layer move while the one before is computed, and its gradients while
# the next one is. Without these, 7 of 13 operations had nothing between start and end.
# They cost 1.6 of 26 GiB. XLA in JAX 0.12 has no such options.
_PIPELINED = {
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
}


def compiler_options(mesh: Mesh) -> dict[str, Any] | None:
    """Returns XLA's options for programs on the devices of `mesh`; None for others."""
    device = mesh.devices.flat[0]
    if device.platform == "gpu":
        return _GPU | (_PIPELINED if jax.__version_info__ < (0, 11) else {})
    options = _OPTIONS.get(device.device_kind)
    return None if options is None else dict(options)
