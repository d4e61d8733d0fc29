"""The format of trees of arrays on disk: Orbax's, with one file per chunk.

Names are those of a flat tree, such as "params.layers.attention.query".
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from etils import epath

from salt_jax.files.writing import is_local
from salt_jax.storage.array_files import CorruptArraysError, one_line

_METADATA = "_METADATA"  # Orbax's description of a tree.
_COMMITTED = "commit_success.txt"  # Without it, one in a bucket is incomplete.

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def stored_names(path: epath.Path) -> list[str]:
    """Returns the names of the arrays in the directory `path`.

    Raises:
      CorruptArraysError: its description cannot be read.
    """
    try:
        tree = json.loads((path / _METADATA).read_text())["tree_metadata"]
        return [".".join(ast.literal_eval(key)) for key in tree]
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise CorruptArraysError(
            f"The arrays in {path} cannot be read ({one_line(error)})."
        ) from error


def is_one_store(path: epath.Path) -> bool:
    """Returns whether the arrays in a directory share one key-value store."""
    return (path / "manifest.ocdbt").exists()


def open_array(path: epath.Path, name: str, one_store: bool) -> tensorstore.TensorStore:
    """Opens one array of the directory `path`; its errors are TensorStore's."""
    store = _store(path, f"{name}/")
    if one_store:
        store = {"driver": "ocdbt", "base": _store(path), "path": f"{name}/"}
    # By default a missing chunk is read as zeros.
    spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
    return tensorstore.open(spec, read=True, open=True).result()


def create_array(
    path: epath.Path, name: str, whole: jax.ShapeDtypeStruct, *, chunks: Sequence[int]
) -> tensorstore.TensorStore:
    """Creates one array of the directory `path`, in chunks of the shape `chunks`.

    They are not compressed, because parameters hardly compress.
    """
    dtype = np.dtype(whole.dtype)
    spec = {
        "driver": "zarr",
        "kvstore": _store(path, f"{name}/"),
        "metadata": {
            "shape": list(whole.shape),
            "chunks": list(chunks),
            "dtype": "bfloat16" if dtype == jnp.bfloat16 else dtype.str,
            "compressor": None,
        },
        "store_data_equal_to_fill_value": True,
    }
    return tensorstore.open(spec, create=True).result()


def write_index(path: epath.Path, shapes: Shapes) -> None:
    """Writes what makes the arrays in the directory `path` a tree; they are on disk."""
    (path / _METADATA).write_text(json.dumps(_described(shapes)))
    if not is_local(path):
        (path / _COMMITTED).write_text("Orbax looks for this, in a bucket.\n")


def _described(shapes: Shapes) -> dict[str, Any]:
    """Returns Orbax's description of a tree, as JSON types."""

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
    """Returns the TensorStore spec of `name` in the directory `path`."""
    text = f"{os.fspath(path)}/{name}"
    # No URL for a local path: its "%", "#" and "?" would be special there.
    return text if "://" in text else {"driver": "file", "path": text}
