"""Safetensors files, read one tensor at a time.

A file is an 8-byte header length, a JSON header with the byte range of each tensor, and
the bytes of the tensors. The safetensors library is not used: it maps a file into
memory, where pages count as used until the file is closed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import ml_dtypes
import numpy as np
from absl import logging
from etils import epath

from salt_jax.files.reading import is_plain_name, read_file
from salt_jax.files.records import decode, typed

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
LENGTH_BYTES = 8
READ_BYTES = 1 << 20  # Bytes per read: files in buckets cannot read into a buffer.
_LONGEST_HEADER = 100_000_000  # Bytes; the limit of the safetensors library.
_MOST_AXES, _MOST_BYTES = 8, 1 << 50
_REMEDY = "fetch it again"
_PICKLED = ("*.bin", "*.pt", "*.pth")


class _Index(TypedDict):
    weight_map: dict[str, str]  # The file of each tensor.


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]  # In bytes after the header.


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """The name, dtype, shape and position of a tensor in a file."""

    name: str
    path: epath.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # The offset of its first byte in the file.

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self) -> Iterator[np.ndarray]:
        """Yields the values some rows at a time, about `READ_BYTES` together."""
        rows, row_shape = self.shape[0], self.shape[1:]
        row_bytes = max(math.prod(row_shape) * self.dtype.itemsize, 1)
        step = max(READ_BYTES // row_bytes, 1)
        for first in range(0, rows, step):
            yield dataclasses.replace(
                self,
                shape=(min(step, rows - first), *row_shape),
                begin=self.begin + first * row_bytes,
            ).read()

    def read(self, read_bytes: int = READ_BYTES) -> np.ndarray:
        """Returns the whole tensor, read `read_bytes` at a time."""
        values = np.empty(self.shape, self.dtype)
        buffer = values.reshape(-1).view(np.uint8).data
        with self.path.open("rb") as file:
            file.seek(self.begin)
            while buffer:
                part = file.read(min(read_bytes, len(buffer)))
                if not part:
                    raise ValueError(f"{self.path} ends within {self.name!r}.")
                buffer[: len(part)] = part
                buffer = buffer[len(part) :]
        return values


def open_tensors(folder: epath.Path) -> dict[str, StoredTensor]:
    """Returns the tensors in `folder` by name, without reading their values.

    As in transformers, model.safetensors goes before an index of other files, and of
    files that have one tensor the last one counts; the index has to agree.

    Raises:
      FileNotFoundError: there are no safetensors, or the index names a missing file.
      ValueError: a file is truncated or is not safetensors, or the index names another
        file for a tensor than transformers reads.
    """
    if (folder / SINGLE).exists():
        if (folder / INDEX).exists():
            logging.info("Reading %s, and not the files of %s.", folder / SINGLE, INDEX)
        return {tensor.name: tensor for tensor in _read_header(folder / SINGLE)}
    weight_map = _weight_map(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        found = {tensor.name: tensor for tensor in _read_header(folder / file)}
        listed = {name for name in weight_map if weight_map[name] == file}
        if absent := sorted(listed - set(found)):
            raise ValueError(
                f"{folder / file} lacks {few(absent)}, which {INDEX} lists."
            )
        for name in sorted(set(tensors) & set(found) - listed):
            raise ValueError(
                f"{folder / file} repeats {name} of {tensors[name].path.name}, and "
                f"{INDEX} does not say that it counts: transformers reads the last. "
                "Remove one of them."
            )
        tensors |= found
    return tensors


def _weight_map(folder: epath.Path) -> Mapping[str, str]:
    """Returns the file of each tensor, as the index says."""
    path = folder / INDEX
    if not path.exists():
        raise _no_tensors(folder)
    found = decode(read_file(path), _Index, where=str(path), remedy=_REMEDY)
    weight_map = found["weight_map"]
    for file in set(weight_map.values()):
        if not is_plain_name(file):
            raise ValueError(f"{path} names {file!r} in another folder.")
        if not (folder / file).exists():
            raise FileNotFoundError(
                f"No {folder / file}, which {INDEX} names: fetch it."
            )
    return weight_map


def _no_tensors(folder: epath.Path) -> Exception:
    pickled = sorted(path.name for kind in _PICKLED for path in folder.glob(kind))
    if pickled:
        return ValueError(
            f"{folder} has its tensors in {few(pickled)}: reading a pickle can run any "
            "program, so salt_jax never does. Convert them to safetensors."
        )
    return FileNotFoundError(f"No {SINGLE} and no {INDEX} in {folder}.")


def _read_header(path: epath.Path) -> Iterator[StoredTensor]:
    size = path.stat().length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        first = LENGTH_BYTES + length
        if size < LENGTH_BYTES or length > _LONGEST_HEADER or first > size:
            raise ValueError(
                f"{path} is truncated or not safetensors: it has {size:,} bytes, and "
                f"its header would be {length:,} bytes long. Fetch it again."
            )
        header = _parse_header(path, file.read(length))
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if first + end != size:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size:,} bytes, and its header "
            f"says {first + end:,}. Fetch it again."
        )
    for name, entry in header.items():
        yield _tensor(path, name, entry, first)


def _parse_header(path: epath.Path, text: bytes) -> dict[str, _Entry]:
    """Returns the header's entry for each tensor."""
    where = f"The header of {path}"
    fields = decode(text, dict[str, Any], where=where, remedy=_REMEDY)
    fields.pop("__metadata__", None)
    return typed(fields, dict[str, _Entry], where=where, remedy=_REMEDY)


def _tensor(path: epath.Path, name: str, entry: _Entry, first: int) -> StoredTensor:
    dtype, shape = DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    if dtype is None:
        raise ValueError(
            f"{name!r} in {path} has dtype {entry['dtype'][:40]}: import reads "
            f"{', '.join(DTYPES)}, not quantized tensors."
        )
    if len(shape) > _MOST_AXES or not all(0 <= size < _MOST_BYTES for size in shape):
        raise ValueError(
            f"{path} is damaged: {name!r} has the shape {str(shape)[:80]}: {_REMEDY}."
        )
    begin, end = entry["data_offsets"]
    tensor = StoredTensor(
        name=name, path=path, dtype=dtype, shape=shape, begin=first + begin
    )
    if begin < 0 or end - begin != tensor.num_bytes:
        raise ValueError(
            f"{path} is damaged: {name!r} of shape {list(tensor.shape)} has "
            f"{end - begin:,} bytes, not {tensor.num_bytes:,}. Fetch it again."
        )
    return tensor


def few(names: Sequence[str]) -> str:
    """Returns the first three names, and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
