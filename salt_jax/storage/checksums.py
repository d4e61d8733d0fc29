"""Checksums of arrays: the same on every mesh, and cheap next to reading the arrays.

A checksum is two sums modulo 2^32 over the bits of the elements, as unsigned integers.
One weighs an element by its row (the index over all axes but the last), the other by
its column. The weights are odd, so a change of one element always changes both sums.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def named_arrays(tree: Any) -> dict[str, Any]:
    """Returns the arrays of a tree, or their shapes and dtypes, by dotted name."""
    flat = ocp.tree.to_flat_dict(tree, sep=".")
    return {name: x for name, x in flat.items() if hasattr(x, "shape")}


def described(x: Any) -> str:
    """Returns the dtype and shape of an array in words, such as "float32[8, 16]"."""
    return f"{np.dtype(x.dtype)}{list(x.shape)}"


def checksums(tree: Any) -> dict[str, str]:
    """Returns the shape, dtype and checksum of each array of a tree, by its name.

    Accelerators sum where the arrays are. On CPU, NumPy reads the shards, ten times as
    fast as XLA does there. All processes must call it.
    """
    arrays = named_arrays(tree)
    if all(_is_on_this_host(x) for x in arrays.values()):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            sums = dict(
                zip(arrays, pool.map(_sums_on_host, arrays.values()), strict=True)
            )
    else:
        sums = jax.device_get(_sums_on_devices(arrays))
    return {name: checksum(x, sums[name]) for name, x in arrays.items()}


def checksum(x: Any, sums: np.ndarray) -> str:
    """Returns what is recorded of an array, given its sums."""
    return f"{described(x)} {sums[0]:08x}{sums[1]:08x}"


def changed(found: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """Returns the names in `found` that were recorded otherwise, or not at all."""
    return sorted(name for name, sums in found.items() if recorded.get(name) != sums)


def sums_of_piece(
    piece: np.ndarray, begins: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Returns the sums over a piece of an array; those of all pieces add up.

    Args:
      piece: The piece, with as many axes as the array.
      begins: The indices in the array at which the piece begins.
      shape: The shape of the array.
    """
    piece = np.ascontiguousarray(piece)
    bits = piece.view(_UNSIGNED[piece.dtype.itemsize])
    if not bits.size:
        return np.zeros(2, np.uint32)
    lines = bits.reshape(-1, bits.shape[-1] if bits.ndim else 1)
    row = np.zeros((), np.uint32)
    for axis, size in enumerate(shape[:-1]):
        index = np.arange(bits.shape[axis], dtype=np.uint32) + np.uint32(begins[axis])
        row = row[..., None] * np.uint32(size) + index
    column = np.arange(lines.shape[1], dtype=np.uint32)
    column += np.uint32(begins[-1] if len(begins) else 0)
    by_row = np.add.reduce(lines, axis=1, dtype=np.uint32)
    by_column = np.add.reduce(lines, axis=0, dtype=np.uint32)
    products = by_row * _weights(row.ravel()), by_column * _weights(column)
    return np.array([x.sum(dtype=np.uint32) for x in products])


def _weights(index: Any) -> Any:
    """Returns an odd number for each index, NumPy's or JAX's."""
    mixed = index * np.uint32(0x9E3779B9)
    return (mixed ^ (mixed >> np.uint32(15))) | np.uint32(1)


def _is_on_this_host(x: jax.Array) -> bool:
    device = next(iter(x.devices()))
    return x.is_fully_addressable and device.platform == "cpu"


def _sums_on_host(x: jax.Array) -> np.ndarray:
    total = np.zeros(2, np.uint32)
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            begins = [part.start or 0 for part in shard.index]
            total += sums_of_piece(np.asarray(shard.data), begins, x.shape)
    return total


@jax.jit
def _sums_on_devices(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(_sums, arrays)


def _sums(x: jax.Array) -> jax.Array:
    """Returns the sums over a whole array, as `sums_of_piece` defines them."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
    bits = jnp.atleast_1d(bits.astype(jnp.uint32))
    row = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape[:-1]):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        row = row * jnp.uint32(size) + index
    column = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1)
    weighted = bits * _weights(row), bits * _weights(column)
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in weighted])
