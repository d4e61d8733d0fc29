"""Checksums of stored arrays, read in pieces, so that memory stays bounded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorstore
from etils import epath

from salt_jax.files.failures import retried
from salt_jax.storage.array_files import CHUNK_BYTES, CorruptArraysError, one_line
from salt_jax.storage.array_format import is_one_store, open_array
from salt_jax.storage.checksums import checksum, described, sums_of_piece

Value = TypeVar("Value")


def check_index(path: epath.Path, arrays: Mapping[str, str]) -> None:
    """Checks that every array can be opened and has the recorded dtype and shape.

    Args:
      path: A directory of arrays.
      arrays: What `checksums` returned for them.

    Raises:
      CorruptArraysError: one cannot, or has another.
      OSError: the storage failed.
    """
    for name, array in _opened(path, arrays):
        found, recorded = _described(array), arrays[name].rpartition(" ")[0]
        if found != recorded:
            raise CorruptArraysError(
                f"{path} is damaged: {name} is {found}, and {recorded} was saved."
            )


def stored_checksums(
    path: epath.Path, arrays: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yields the name and the checksum of each of `arrays`, as they are stored.

    Raises:
      CorruptArraysError: one cannot be read.
      OSError: the storage failed.
    """
    for name, array in _opened(path, arrays):
        sums = np.zeros(2, np.uint32)
        for begin, piece in _pieces(path, name, array):
            begins = [begin, *[0] * (piece.ndim - 1)][: piece.ndim]
            sums += sums_of_piece(piece, begins, array.shape)
        x = np.broadcast_to(np.zeros((), array.dtype.numpy_dtype), array.shape)
        yield name, checksum(x, sums)


def _opened(
    path: epath.Path, names: Mapping[str, str]
) -> Iterator[tuple[str, tensorstore.TensorStore]]:
    one_store = is_one_store(path)
    for name in names:
        doing = f"Opening {name} in {path}"
        yield (
            name,
            _guarded(functools.partial(open_array, path, name, one_store), doing),
        )


def _pieces(
    path: epath.Path, name: str, array: tensorstore.TensorStore
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields an array by whole chunks of its first axis, with each one's first row."""
    doing = f"Reading {name} in {path}"
    if not array.shape:
        yield 0, _guarded(functools.partial(_read, array), doing)
        return
    shape: Any = array.chunk_layout.read_chunk.shape
    chunk = shape[0]
    row_bytes = array.dtype.numpy_dtype.itemsize * int(np.prod(array.shape[1:]))
    rows = max(chunk, CHUNK_BYTES // max(row_bytes, 1) // chunk * chunk)
    for begin in range(0, array.shape[0], rows):
        part = array[begin : min(begin + rows, array.shape[0])]
        yield begin, _guarded(functools.partial(_read, part), doing)


def _guarded(function: Callable[[], Value], doing: str) -> Value:
    """Calls a reader of TensorStore, again after failures that may pass."""
    try:
        return retried(function, doing)
    except OSError:
        raise
    except Exception as error:
        raise CorruptArraysError(f"{doing} failed ({one_line(error)}).") from error


def _read(array: tensorstore.TensorStore) -> np.ndarray:
    return np.asarray(array.read().result())


def _described(array: tensorstore.TensorStore) -> str:
    zeros = np.broadcast_to(np.zeros((), array.dtype.numpy_dtype), array.shape)
    return described(zeros)
