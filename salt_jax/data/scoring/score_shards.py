"""The shards of scores on disk: numpy arrays that end with a digest.

A shard is a `.npy` file of rows, which `numpy.load` reads, followed by 32 bytes: the
SHA-256 of those before it, of the file's name, and of the dataset and the scorer. So a
shard cannot pass for another one, nor for one of other scores.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
from etils import epath

from salt_jax.data.scoring.scores_manifest import ScoresManifest
from salt_jax.files.reading import DamagedFileError, named_errors

_DIGEST_BYTES = 32
_MOST_HEADER_BYTES = 1 << 12
_REMEDY = "delete it and run score again"


def to_bytes(rows: np.ndarray, manifest: ScoresManifest, shard: int) -> bytes:
    """Returns the contents of the file of a shard."""
    file = io.BytesIO()
    np.save(file, rows)
    contents = file.getvalue()
    return contents + _digest(contents, manifest, shard)


def read(path: epath.Path, manifest: ScoresManifest, shard: int) -> np.ndarray:
    """Returns the rows of a shard of the scores at `path`.

    Raises:
      ValueError: the shard is missing, damaged, or of other scores.
      OSError: it cannot be read.
    """
    file = path / manifest.shard_name(shard)
    shape, dtype = manifest.shard_ids(shard).shape, manifest.dtype
    most = shape[0] * dtype.itemsize + _MOST_HEADER_BYTES + _DIGEST_BYTES
    try:
        with named_errors(file), file.open("rb") as opened:
            contents = opened.read(most + 1)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing: run score again.") from error
    end = len(contents) - _DIGEST_BYTES
    digest = _digest(memoryview(contents)[: max(end, 0)], manifest, shard)
    if len(contents) > most or contents[max(end, 0) :] != digest:
        raise DamagedFileError(
            f"{file} is damaged, or is not this shard of these scores: its SHA-256 is "
            f"not the one that it ends with: {_REMEDY}."
        )
    found, rows = _rows(contents, dtype)
    if found != (shape, dtype):
        raise ValueError(
            f"{file} has {found[0]} scores, and should have {shape}: {_REMEDY}."
        )
    return rows


def _rows(contents: bytes, dtype: np.dtype) -> tuple[tuple[Any, Any], np.ndarray]:
    """Returns the shape, the dtype and the rows, without a copy."""
    header = io.BytesIO(contents[:_MOST_HEADER_BYTES])
    np.lib.format.read_magic(header)
    shape, _, found = np.lib.format.read_array_header_1_0(header)
    rows = np.frombuffer(memoryview(contents)[header.tell() : -_DIGEST_BYTES], np.uint8)
    return (shape, found), rows.view(dtype) if found == dtype else rows


def _digest(
    contents: bytes | memoryview, manifest: ScoresManifest, shard: int
) -> bytes:
    bound = (
        manifest.shard_name(shard),
        manifest.dataset_fingerprint,
        manifest.scorer_fingerprint,
    )
    digest = hashlib.sha256(json.dumps(bound).encode())
    digest.update(contents)
    return digest.digest()
