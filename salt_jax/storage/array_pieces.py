"""Trees of arrays on disk, piece by piece: no array need fit in memory.

The files are those that Orbax writes and reads, a file for every chunk. Names are those
of a flat tree: "params.layers.attention.query".
"""

from __future__ import annotations

import ast
import collections
import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from etils import epath

from salt_jax.model.parameters import is_in_stack
from salt_jax.storage.array_files import (
    CHUNK_BYTES,
    CorruptArraysError,
    digest_of_sums,
    mixed_sums,
    one_line,
)

_METADATA = "_METADATA"  # Orbax's description of a tree.
_WRITES_IN_FLIGHT = 2
_TILE = 128  # Rows and columns that are transposed together.

Shapes = Mapping[str, jax.ShapeDtypeStruct]
_Writes = collections.deque[tensorstore.WriteFutures]


class StoredArrays:
    """The arrays of a folder that `write_arrays` or an `ArrayWriter` wrote."""

    def __init__(self, path: epath.Path):
        """Opens the folder `path`.

        Raises:
          CorruptArraysError: an array in it cannot be opened.
        """
        self._path = path
        self._arrays = {name: self._open(name) for name in _stored_names(path)}
        self._sums = {name: np.zeros(2, np.uint32) for name in self._arrays}

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of every array, by name."""
        return {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype.numpy_dtype)
            for name, array in self._arrays.items()
        }

    def pieces(
        self, name: str, layer: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields an array in pieces, with the row that each begins at.

        Args:
          name: Of the array.
          layer: Which of its first axis to read; None: it is no stack of layers. The
            rows are those of the next axis.

        Raises:
          CorruptArraysError: a piece cannot be read.
        """
        array = self._arrays[name]
        front = () if layer is None else (layer,)
        axis = len(front)
        chunks: Any = array.chunk_layout.read_chunk.shape
        rows, chunk = array.shape[axis], chunks[axis]
        step = _rows_of_a_piece(array.shape[axis:], array.dtype.numpy_dtype)
        # Whole chunks, so that none is read twice.
        step = max(chunk, step // chunk * chunk)
        for begin in range(0, rows, step):
            piece = self._read(name, (*front, slice(begin, min(begin + step, rows))))
            at = (*front, begin)
            self._sums[name] += _sums_of_piece(piece, at, array.shape)
            yield begin, piece

    def fingerprint(self) -> str:
        """Returns what `fingerprint` of the tree is, if every piece was read once."""
        return digest_of_sums(self.shapes, self._sums)

    def _open(self, name: str) -> tensorstore.TensorStore:
        is_one_store = (self._path / "manifest.ocdbt").exists()
        try:
            return _open_array(self._path, name, is_one_store)
        except Exception as error:
            raise CorruptArraysError(
                f"{name} in {self._path} cannot be opened ({one_line(error)})."
            ) from error

    def _read(self, name: str, index: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(self._arrays[name][index].read().result())
        except Exception as error:
            raise CorruptArraysError(
                f"{name} in {self._path} is corrupt ({one_line(error)})."
            ) from error


class ArrayWriter:
    """Writes the arrays of a tree as a new folder, piece by piece."""

    def __init__(self, path: epath.Path, shapes: Shapes):
        """Begins the folder `path` for arrays of `shapes`, by name."""
        self._path, self._shapes = path, shapes
        self._arrays = {
            name: _create_array(path, name, shape) for name, shape in shapes.items()
        }
        self._sums = {name: np.zeros(2, np.uint32) for name in shapes}
        self._missing = {name: math.prod(x.shape) for name, x in shapes.items()}
        self._in_flight: _Writes = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Waits for what is being written: who removes the folder is not raced."""
        while self._in_flight:
            with contextlib.suppress(Exception):
                self._in_flight.popleft().result()

    def write(self, name: str, values: np.ndarray, layer: int | None = None) -> None:
        """Writes an array, or one layer of it.

        Args:
          name: Of the array.
          values: Of any dtype and strides, and of any shape that `reshape` would bring
            to the array's without moving an element from one row to another. They are
            cast and made contiguous in pieces: only those are held twice.
          layer: Which of the array's first axis they are; None: they are all of it.
        """
        whole = self._shapes[name]
        front = () if layer is None else (layer,)
        rows, *rest = whole.shape[len(front) :]
        merged = values.shape[0] // rows  # Rows of `values` in a row of the array.
        step = _rows_of_a_piece((rows, *rest), whole.dtype)
        for begin in range(0, rows, step):
            piece = contiguous(values[begin * merged : (begin + step) * merged])
            # A copy, even if nothing is cast: what is in flight would keep all values.
            piece = piece.astype(whole.dtype).reshape(-1, *rest)
            while len(self._in_flight) >= _WRITES_IN_FLIGHT:
                self._in_flight.popleft().result()
            target = self._arrays[name][(*front, slice(begin, begin + len(piece)))]
            self._in_flight.append(target.write(piece))
            self._sums[name] += _sums_of_piece(piece, (*front, begin), whole.shape)
            self._missing[name] -= piece.size

    def finish(self) -> str:
        """Waits until all is on disk, and returns the `fingerprint` of the tree."""
        assert not any(self._missing.values()), self._missing
        while self._in_flight:
            self._in_flight.popleft().result()
        (self._path / _METADATA).write_text(json.dumps(_described(self._shapes)))
        return digest_of_sums(self._shapes, self._sums)


def contiguous(values: np.ndarray) -> np.ndarray:
    """Returns `values` in C order; a transposed matrix is copied tile by tile.

    NumPy would go through all of its source for every row: tiles stay in the cache.
    """
    if values.flags.c_contiguous or values.ndim < 2:
        return np.ascontiguousarray(values)
    # As integers: NumPy copies those of a dtype that is not its own one by one.
    bits = values.view(f"u{values.itemsize}")
    copy = np.empty(values.shape, bits.dtype)
    for row in range(0, values.shape[0], _TILE):
        for column in range(0, values.shape[1], _TILE):
            tile = np.s_[row : row + _TILE, column : column + _TILE]
            copy[tile] = bits[tile]
    return copy.view(values.dtype)


def _rows_of_a_piece(shape: Sequence[int], dtype: np.dtype) -> int:
    """Returns how many rows of an array of `shape` make a piece, at least one."""
    return max(1, CHUNK_BYTES // (math.prod(shape[1:]) * np.dtype(dtype).itemsize))


def _sums_of_piece(
    piece: np.ndarray, at: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Returns `mixed_sums` of a piece of an array of `shape` that begins at `at`."""
    lead = len(shape) - piece.ndim
    piece = piece.reshape((1,) * lead + piece.shape)
    begins = np.zeros(len(shape), np.uint32)
    begins[: len(at)] = at
    return np.asarray(_mixed_sums_of_piece(piece, begins, tuple(shape)))


_mixed_sums_of_piece = jax.jit(mixed_sums, static_argnums=2)


def _stored_names(path: epath.Path) -> list[str]:
    try:
        tree = json.loads((path / _METADATA).read_text())["tree_metadata"]
        return [".".join(ast.literal_eval(key)) for key in tree]
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise CorruptArraysError(
            f"The arrays in {path} cannot be read ({one_line(error)})."
        ) from error


def _open_array(
    path: epath.Path, name: str, is_one_store: bool
) -> tensorstore.TensorStore:
    store = _store(path, f"{name}/")
    if is_one_store:
        store = {"driver": "ocdbt", "base": _store(path), "path": f"{name}/"}
    # A chunk that is gone would be read as zeros.
    spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
    return tensorstore.open(spec, read=True, open=True).result()


def _create_array(
    path: epath.Path, name: str, whole: jax.ShapeDtypeStruct
) -> tensorstore.TensorStore:
    """Returns a new array in chunks, those of a stack of one layer each.

    They are not compressed: parameters hardly can be.
    """
    front = (1,) if is_in_stack(name.split(".")) else ()
    rows, *rest = whole.shape[len(front) :]
    dtype = np.dtype(whole.dtype)
    chunk_rows = min(rows, _rows_of_a_piece((rows, *rest), dtype))
    spec = {
        "driver": "zarr",
        "kvstore": _store(path, f"{name}/"),
        "metadata": {
            "shape": list(whole.shape),
            "chunks": [*front, chunk_rows, *rest],
            "dtype": "bfloat16" if dtype == jnp.bfloat16 else dtype.str,
            "compressor": None,
        },
        "store_data_equal_to_fill_value": True,
    }
    return tensorstore.open(spec, create=True).result()


def _described(shapes: Shapes) -> dict[str, Any]:
    """Returns what Orbax needs to know of a tree, as JSON."""

    def describe(name: str) -> dict[str, Any]:
        value = {"value_type": "jax.Array", "skip_deserialize": False}
        return {
            "key_metadata": [{"key": key, "key_type": 2} for key in name.split(".")],
            "value_metadata": value | {"write_shape": list(shapes[name].shape)},
        }

    return {
        "tree_metadata": {
            str(tuple(name.split("."))): describe(name) for name in shapes
        },
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _store(path: epath.Path, name: str = "") -> Any:
    """Returns where TensorStore finds what is at `name` in the folder `path`."""
    text = f"{os.fspath(path)}/{name}"
    # In a URL, "%", "#" and "?" in the name of a folder would mean something else.
    return text if "://" in text else {"driver": "file", "path": text}
