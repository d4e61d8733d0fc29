"""Trees of arrays on disk, read and written in pieces that fit in memory.

Names are those of a flat tree, such as "params.layers.attention.query".
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np
import tensorstore
from etils import epath

from salt_jax.files.failures import MachineError, retried
from salt_jax.model.parameters import is_in_stack
from salt_jax.storage.array_files import (
    CHUNK_BYTES,
    CorruptArraysError,
    digest_of_sums,
    mixed_sums,
    one_line,
)
from salt_jax.storage.array_format import (
    Shapes,
    create_array,
    is_one_store,
    open_array,
    stored_names,
    write_index,
)
from salt_jax.storage.finite import check_finite_piece

_WRITES_IN_FLIGHT = 2
_TILE = 128  # Rows and columns of the tiles in which a matrix is transposed.

_Writes = collections.deque[tensorstore.WriteFutures]


class StoredArrays:
    """The arrays of a directory written by `write_arrays` or an `ArrayWriter`."""

    def __init__(self, path: epath.Path):
        """Opens the directory `path`.

        Raises:
          CorruptArraysError: an array cannot be opened.
          OSError: the storage failed.
        """
        self._path = path
        self._arrays = {name: self._open(name) for name in stored_names(path)}
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
        """Yields an array in pieces, each with the index of its first row.

        Args:
          name: The name of the array.
          layer: The layer of a stack to read, whose rows are then those of the second
            axis; None: the array is not a stack.

        Raises:
          CorruptArraysError: a piece cannot be read.
          NotFiniteError: a number is not finite.
          OSError: the storage failed.
        """
        array = self._arrays[name]
        front = () if layer is None else (layer,)
        axis = len(front)
        chunks: Any = array.chunk_layout.read_chunk.shape
        rows, chunk = array.shape[axis], chunks[axis]
        step = _rows_of_a_piece(array.shape[axis:], array.dtype.numpy_dtype)
        # Whole chunks, so that no chunk is read twice.
        step = max(chunk, step // chunk * chunk)
        for begin in range(0, rows, step):
            piece = self._read(name, (*front, slice(begin, min(begin + step, rows))))
            at = (*front, begin)
            self._sums[name] += _sums_of_piece(piece, at, array.shape)
            check_finite_piece(piece, name, str(self._path))
            yield begin, piece

    def fingerprint(self) -> str:
        """Returns the `fingerprint` of the tree, if every piece was read once."""
        return digest_of_sums(self.shapes, self._sums)

    def _open(self, name: str) -> tensorstore.TensorStore:
        doing = f"Opening {name} in {self._path}"
        one_store = is_one_store(self._path)
        try:
            return retried(lambda: open_array(self._path, name, one_store), doing)
        except MachineError:
            raise
        except Exception as error:
            raise CorruptArraysError(
                f"{name} in {self._path} cannot be opened ({one_line(error)})."
            ) from error

    def _read(self, name: str, index: tuple[Any, ...]) -> np.ndarray:
        part, doing = self._arrays[name][index], f"Reading {name} in {self._path}"
        try:
            return retried(lambda: np.asarray(part.read().result()), doing)
        except MachineError:
            raise
        except Exception as error:
            raise CorruptArraysError(
                f"{name} in {self._path} is corrupt ({one_line(error)})."
            ) from error


class ArrayWriter:
    """Writes the arrays of a tree into a new directory, piece by piece."""

    def __init__(self, path: epath.Path, shapes: Shapes):
        """Creates the directory `path` for arrays of `shapes`, by name."""
        self._path, self._shapes = path, shapes
        self._arrays = {
            name: _created(path, name, shape) for name, shape in shapes.items()
        }
        self._sums = {name: np.zeros(2, np.uint32) for name in shapes}
        self._missing = {name: math.prod(x.shape) for name, x in shapes.items()}
        self._in_flight: _Writes = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Waits for the writes in flight, so that the directory may be removed."""
        while self._in_flight:
            with contextlib.suppress(Exception):
                self._in_flight.popleft().result()

    def write(self, name: str, values: np.ndarray, layer: int | None = None) -> None:
        """Writes an array, or one layer of a stack.

        Args:
          name: The name of the array.
          values: The values, of any dtype and strides. Their shape may be any that
            reshapes to the array's without moving an element to another row. They are
            cast and made contiguous piece by piece, so only pieces are held twice.
          layer: The layer to write; None: the whole array.

        Raises:
          NotFiniteError: a number is not finite, once it is cast.
        """
        whole = self._shapes[name]
        front = () if layer is None else (layer,)
        rows, *rest = whole.shape[len(front) :]
        merged = values.shape[0] // rows  # Rows of `values` in a row of the array.
        step = _rows_of_a_piece((rows, *rest), whole.dtype)
        for begin in range(0, rows, step):
            piece = contiguous(values[begin * merged : (begin + step) * merged])
            # Always a copy: a view in flight would keep all of `values` in memory.
            piece = piece.astype(whole.dtype).reshape(-1, *rest)
            check_finite_piece(piece, name, f"As {whole.dtype}, it")
            while len(self._in_flight) >= _WRITES_IN_FLIGHT:
                self._in_flight.popleft().result()
            target = self._arrays[name][(*front, slice(begin, begin + len(piece)))]
            self._in_flight.append(target.write(piece))
            self._sums[name] += _sums_of_piece(piece, (*front, begin), whole.shape)
            self._missing[name] -= piece.size

    def finish(self) -> str:
        """Waits until everything is on disk; returns the `fingerprint` of the tree."""
        assert not any(self._missing.values()), self._missing
        while self._in_flight:
            self._in_flight.popleft().result()
        write_index(self._path, self._shapes)
        return digest_of_sums(self._shapes, self._sums)


def contiguous(values: np.ndarray) -> np.ndarray:
    """Returns `values` in C order; a transposed matrix is copied tile by tile.

    NumPy would read the whole source for every row. Tiles stay in the cache.
    """
    if values.flags.c_contiguous or values.ndim < 2:
        return np.ascontiguousarray(values)
    # As integers, because NumPy copies foreign dtypes element by element.
    bits = values.view(f"u{values.itemsize}")
    copy = np.empty(values.shape, bits.dtype)
    for row in range(0, values.shape[0], _TILE):
        for column in range(0, values.shape[1], _TILE):
            tile = np.s_[row : row + _TILE, column : column + _TILE]
            copy[tile] = bits[tile]
    return copy.view(values.dtype)


def _rows_of_a_piece(shape: Sequence[int], dtype: np.dtype) -> int:
    """Returns the number of rows per piece of an array of `shape`, at least 1."""
    return max(1, CHUNK_BYTES // (math.prod(shape[1:]) * np.dtype(dtype).itemsize))


def _sums_of_piece(
    piece: np.ndarray, at: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Returns `mixed_sums` of the piece at index `at` of an array of `shape`."""
    lead = len(shape) - piece.ndim
    piece = piece.reshape((1,) * lead + piece.shape)
    begins = np.zeros(len(shape), np.uint32)
    begins[: len(at)] = at
    return np.asarray(_mixed_sums_of_piece(piece, begins, tuple(shape)))


_mixed_sums_of_piece = jax.jit(mixed_sums, static_argnums=2)


def _created(
    path: epath.Path, name: str, whole: jax.ShapeDtypeStruct
) -> tensorstore.TensorStore:
    """Creates an array, whose chunks in a stack hold one layer or a part of it."""
    front = (1,) if is_in_stack(name.split(".")) else ()
    rows, *rest = whole.shape[len(front) :]
    chunk_rows = min(rows, _rows_of_a_piece((rows, *rest), whole.dtype))
    return create_array(path, name, whole, chunks=(*front, chunk_rows, *rest))
