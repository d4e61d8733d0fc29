"""Folders of safetensors, read and written by rows of one tensor at a time.

A file is a JSON header, of the length that its first eight bytes say, and then the
bytes of each tensor, which the header gives by where they begin and end. The library
reads such a file as mapped memory, whose pages count as held until it is closed, and
writes only tensors that are all in memory; so the bytes are read and written here.
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

SHARD_BYTES = 5_000_000_000  # What a file holds at most, if it is of several tensors.
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}
_LENGTH_BYTES = 8
_READ_BYTES = 1 << 20  # At a time: files in buckets can fill no buffer themselves.
_LONGEST_HEADER = 100_000_000  # In bytes; the library's own limit.
_PICKLED = ("*.bin", "*.pt", "*.pth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file, and where it is."""

    name: str
    path: epath.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # Of its bytes in the file.

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns the tensor, all of it."""
        values = np.empty(self.shape, self.dtype)
        buffer = values.reshape(-1).view(np.uint8).data
        with self.path.open("rb") as file:
            file.seek(self.begin)
            while buffer:
                part = file.read(min(_READ_BYTES, len(buffer)))
                if not part:
                    raise ValueError(f"{self.path} ends within {self.name!r}.")
                buffer[: len(part)] = part
                buffer = buffer[len(part) :]
        return values


def open_tensors(folder: epath.Path) -> dict[str, StoredTensor]:
    """Returns the tensors of the safetensors in `folder`, by name; reads none.

    Raises:
      FileNotFoundError: there are none, or a file that the index names is missing.
      ValueError: a file is truncated or is no safetensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for path, names in _files(folder).items():
        found = {tensor.name: tensor for tensor in _read_header(path)}
        absent = sorted(set(names or ()) - set(found))
        if absent:
            raise ValueError(f"{path} lacks {few(absent)}, which {INDEX} says it has.")
        twice = sorted(set(tensors) & set(found))
        if twice:
            raise ValueError(f"{path} has {few(twice)} a second time.")
        tensors |= found
    return tensors


def write_tensors(
    folder: epath.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    rows_of: Callable[[str], Iterable[np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors into `folder`, in one file or in several with an index.

    Args:
      folder: Which is there.
      shapes: Of the tensors, by name, in the order to write them in.
      dtype: Of all of them: "float32" or "bfloat16".
      rows_of: Gives a tensor's rows, some at a time, when it is to be written.
      shard_bytes: What a file holds at most, unless one tensor is larger.
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
                    file.write(rows.tobytes())  # Files in buckets take no views.
    if len(shards) > 1:
        size = sum(map(math.prod, shapes.values())) * _DTYPES[code].itemsize
        about = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_json(folder / INDEX, about)


def _files(folder: epath.Path) -> dict[epath.Path, list[str] | None]:
    """Returns each file of `folder` with the tensors that its index says it has."""
    if (folder / INDEX).exists():
        weight_map = _weight_map(folder / INDEX)
        names: dict[epath.Path, list[str] | None] = {}
        for name, file in weight_map.items():
            if "/" in file:
                raise ValueError(f"{folder / INDEX} names {file!r}, not a file by it.")
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
            f"{folder} has its tensors in {few(pickled)}: such files are pickled, and "
            "can run any program when they are read, so they never are. Convert them "
            "to safetensors."
        )
    raise FileNotFoundError(f"No {SINGLE} and no {INDEX} in {folder}.")


def _weight_map(path: epath.Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(path.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no index of safetensors ({error!r}).") from error


def _read_header(path: epath.Path) -> Iterator[StoredTensor]:
    size = path.stat().length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        first = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or length > _LONGEST_HEADER or first > size:
            raise ValueError(
                f"{path} is truncated, or is no safetensors: it has {size:,} bytes, "
                f"and its header would be {length:,} bytes long. Fetch it again."
            )
        header = _parse_header(path, file.read(length))
    end = max((about["data_offsets"][1] for about in header.values()), default=0)
    if first + end != size:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size:,} bytes, and its header "
            f"speaks of {first + end:,}. Fetch it again."
        )
    for name, about in header.items():
        yield _tensor(path, name, about, first)


def _parse_header(path: epath.Path, text: bytes) -> dict[str, Any]:
    """Returns what the header says of each tensor, with all that it must say."""
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
            f"{path} is damaged, or is no safetensors: its header cannot be read "
            f"({type(error).__name__}). Fetch it again."
        ) from error
    return header


def _tensor(
    path: epath.Path, name: str, about: Mapping[str, Any], first: int
) -> StoredTensor:
    dtype = _DTYPES.get(about["dtype"])
    if dtype is None:
        raise ValueError(
            f"{name!r} in {path} is of dtype {about['dtype']}: import reads "
            f"{', '.join(_DTYPES)}, and nothing that is quantized."
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
    """Returns the length and the text of the header of a file of these tensors."""
    # Readers of PyTorch refuse a file that does not say that it is for them.
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
    text += b" " * (-len(text) % _LENGTH_BYTES)  # So that the tensors are aligned.
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
    """Returns the first names, and how many there are beside them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
