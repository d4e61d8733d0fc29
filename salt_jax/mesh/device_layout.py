"""Which device of a mesh lies beside which."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils


def lay_out(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices in `shape`, neighbours where they have links to each other.

    `jax.make_mesh` refuses several slices, and on some chips a mesh that splits an
    axis of the torus.
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
            f"The devices are in {num_slices} slices, which replica={replica} does "
            f"not divide into: set the mesh's replica to {num_slices}, so that "
            "parameters are split within a slice and gradients summed across."
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
