"""Safetensors files, read and written some rows of one tensor at a time.

A file is an 8-byte header length, a JSON header with the byte range of each tensor, and
the bytes of the tensors. The safetensors library is not used: it maps a file into
memory, where pages count as used until the file is closed, and it writes only tensors
that are all in memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from salt_jax.data.json_files import write_json

SHARD_BYTES = 5_000_000_000  # The size limit of a file with more than one tensor.
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}
_LENGTH_BYTES = 8
READ_BYTES = 1 << 20  # Bytes per read: files in buckets cannot read into a buffer.
_LONGEST_HEADER = 100_000_000  # Bytes; the limit of the safetensors library.
_PICKLED = ("*.bin", "*.pt", "*.pth")


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

    Raises:
      FileNotFoundError: there are no safetensors, or the index names a missing file.
      ValueError: a file is truncated or is not safetensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for path, names in _files(folder).items():
        found = {tensor.name: tensor for tensor in _read_header(path)}
        absent = sorted(set(names or ()) - set(found))
        if absent:
            raise ValueError(f"{path} lacks {few(absent)}, which {INDEX} lists.")
        twice = sorted(set(tensors) & set(found))
        if twice:
            raise ValueError(f"{path} repeats {few(twice)} of another file.")
        tensors |= found
    return tensors


def write_tensors(
    folder: epath.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    rows_of: Callable[[str], Iterable[np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors into `folder`: one file, or several files and an index.

    Args:
      folder: An existing folder.
      shapes: The shapes of the tensors by name, in the order of writing.
      dtype: The dtype of all tensors, "float32" or "bfloat16".
      rows_of: Yields the rows of a tensor, some at a time; called when it is written.
      shard_bytes: The size limit of a file; a larger tensor has a file of its own.
    """
    code = _CODES[dtype]
    shards = _shards(shapes, _DTYPES[code].itemsize, shard_bytes)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        path = folder / (name if len(shards) > 1 else SINGLE)
        weight_map |= dict.fromkeys(names, path.name)
        with path.open("wb") as file:
            file.write(_header({name: shapes[name] for name in names}, code))
            for name in names:
                for rows in rows_of(name):
                    file.write(rows.tobytes())  # Files in buckets reject memoryviews.
    if len(shards) > 1:
        size = sum(map(math.prod, shapes.values())) * _DTYPES[code].itemsize
        about = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_json(folder / INDEX, about)


def _files(folder: epath.Path) -> dict[epath.Path, list[str] | None]:
    """Returns each file of `folder` with the tensors that the index lists for it."""
    if (folder / INDEX).exists():
        weight_map = _weight_map(folder / INDEX)
        names: dict[epath.Path, list[str] | None] = {}
        for name, file in weight_map.items():
            if "/" in file:
                raise ValueError(f"{folder / INDEX} names {file!r} in another folder.")
            listed = names.setdefault(folder / file, [])
            assert listed is not None
            listed.append(name)
        for path in names:
            if not path.exists():
                raise FileNotFoundError(f"No {path}, which {INDEX} names: fetch it.")
        return names
    if (folder / SINGLE).exists():
        return {folder / SINGLE: None}
    pickled = sorted(path.name for kind in _PICKLED for path in folder.glob(kind))
    if pickled:
        raise ValueError(
            f"{folder} has its tensors in {few(pickled)}: reading a pickle can run any "
            "program, so salt_jax never does. Convert them to safetensors."
        )
    raise FileNotFoundError(f"No {SINGLE} and no {INDEX} in {folder}.")


def _weight_map(path: epath.Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(path.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a safetensors index ({error!r}).") from error


def _read_header(path: epath.Path) -> Iterator[StoredTensor]:
    size = path.stat().length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        first = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or length > _LONGEST_HEADER or first > size:
            raise ValueError(
                f"{path} is truncated or not safetensors: it has {size:,} bytes, and "
                f"its header would be {length:,} bytes long. Fetch it again."
            )
        header = _parse_header(path, file.read(length))
    end = max((about["data_offsets"][1] for about in header.values()), default=0)
    if first + end != size:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size:,} bytes, and its header "
            f"says {first + end:,}. Fetch it again."
        )
    for name, about in header.items():
        yield _tensor(path, name, about, first)


def _parse_header(path: epath.Path, text: bytes) -> dict[str, Any]:
    """Returns the header's entry for each tensor, checked for the required fields."""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for about in header.values():
            begin, end = map(int, about["data_offsets"])
            about["data_offsets"] = (begin, end)
            about["shape"] = tuple(map(int, about["shape"]))
            about["dtype"] = str(about["dtype"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged or not safetensors: its header cannot be read "
            f"({type(error).__name__}). Fetch it again."
        ) from error
    return header


def _tensor(
    path: epath.Path, name: str, about: Mapping[str, Any], first: int
) -> StoredTensor:
    dtype = _DTYPES.get(about["dtype"])
    if dtype is None:
        raise ValueError(
            f"{name!r} in {path} has dtype {about['dtype']}: import reads "
            f"{', '.join(_DTYPES)}, not quantized tensors."
        )
    begin, end = about["data_offsets"]
    tensor = StoredTensor(
        name=name, path=path, dtype=dtype, shape=about["shape"], begin=first + begin
    )
    if begin < 0 or end - begin != tensor.num_bytes:
        raise ValueError(
            f"{path} is damaged: {name!r} of shape {list(tensor.shape)} has "
            f"{end - begin:,} bytes, not {tensor.num_bytes:,}. Fetch it again."
        )
    return tensor


def _header(shapes: Mapping[str, tuple[int, ...]], code: str) -> bytes:
    """Returns the header length and the header of a file with these tensors."""
    # transformers refuses a file without this format in its metadata.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * _DTYPES[code].itemsize
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # Aligns the tensors.
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _shards(
    shapes: Mapping[str, tuple[int, ...]], itemsize: int, shard_bytes: int
) -> list[list[str]]:
    """Returns the names of the tensors of each file, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def few(names: Sequence[str]) -> str:
    """Returns the first three names, and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
