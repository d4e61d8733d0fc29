"""The assignment of physical devices to positions of the mesh."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils


def lay_out(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices in `shape`, with linked devices next to each other.

    `jax.make_mesh` is not enough: it rejects several slices, and on some TPUs it
    rejects a mesh that splits an axis of the torus.

    Args:
      shape: The sizes of replica, data and model.
      devices: All devices of the mesh.

    Raises:
      ValueError: TPU slices do not divide `replica`.
    """
    replica, data, model = shape
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices > 1 and replica % num_slices == 0:
        return mesh_utils.create_hybrid_device_mesh(
            (replica // num_slices, data, model),
            (num_slices, 1, 1),
            devices,
            allow_split_physical_axes=True,
        )
    if num_slices > 1 and devices[0].platform == "tpu":
        raise ValueError(
            f"replica={replica} is not a multiple of the {num_slices} slices: set "
            f"MeshShape.replica={num_slices}, which shards parameters within a slice "
            "and sums gradients across slices."
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
