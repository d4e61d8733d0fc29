"""Safetensors files, written some rows of one tensor at a time.

The safetensors library writes only tensors that are all in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from salt_jax.data.tokenizer_json import as_json
from salt_jax.files.reading import named_errors
from salt_jax.files.writing import write_file
from salt_jax.hugging_face.safetensors_files import DTYPES, INDEX, LENGTH_BYTES, SINGLE

SHARD_BYTES = 5_000_000_000  # The size limit of a file with more than one tensor.
_CODES = {dtype.name: code for code, dtype in DTYPES.items()}


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
    shards = _shards(shapes, DTYPES[code].itemsize, shard_bytes)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        path = folder / (name if len(shards) > 1 else SINGLE)
        weight_map |= dict.fromkeys(names, path.name)
        with named_errors(path), path.open("wb") as file:
            file.write(_header({name: shapes[name] for name in names}, code))
            for name in names:
                for rows in rows_of(name):
                    file.write(rows.tobytes())  # Files in buckets reject memoryviews.
    if len(shards) > 1:
        size = sum(map(math.prod, shapes.values())) * DTYPES[code].itemsize
        about = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_file(folder / INDEX, as_json(about))


def _header(shapes: Mapping[str, tuple[int, ...]], code: str) -> bytes:
    """Returns the header length and the header of a file with these tensors."""
    # transformers refuses a file without this format in its metadata.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * DTYPES[code].itemsize
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # Aligns the tensors.
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


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
