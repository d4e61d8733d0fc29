"""Writes exports atomically: complete under their name, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from salt_jax.files.reading import sha256_of
from salt_jax.files.records import record_bytes, write_record
from salt_jax.files.writing import (
    begin_folder,
    is_there,
    name_folder,
    unfinished_path,
    write_file,
)
from salt_jax.model.config import DTYPES, TransformerConfig
from salt_jax.storage.array_files import (
    absolute,
    check_name,
    fingerprint,
    write_arrays,
)
from salt_jax.storage.export import FORMAT_VERSION, Export
from salt_jax.storage.finite import check_finite


def write_export(
    path: epath.PathLike,
    params: Any,
    *,
    model: TransformerConfig,
    vocabulary: epath.PathLike,
    provenance: Mapping[str, Any],
    dtype: str,
    seq_len: int,
    files: Mapping[str, str] | None = None,
) -> Export:
    """Writes `params`, with their model and vocabulary, as the new export `path`.

    All processes must call it.

    Args:
      path: The directory to write; it must not exist.
      params: Unboxed parameters, on any mesh.
      model: The shape of `params`.
      vocabulary: The vocabulary file, which is copied.
      provenance: The origin of the parameters, as JSON: workdir, step, fingerprints.
      dtype: The dtype to write: "bfloat16" or "float32".
      seq_len: Tokens per training sequence.
      files: More text files to write, by name.

    Raises:
      FileNotFoundError: there is no vocabulary file.
      ValueError: `dtype` is another, `path` exists, or a number is not finite.
    """
    vocabulary = epath.Path(vocabulary)
    check_new(path, dtype)
    if not vocabulary.exists():
        raise FileNotFoundError(f"No vocabulary at {vocabulary}.")
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    check_finite(params, f"What is to be exported to {path}, as {dtype},")

    def write_params(path: epath.Path) -> str:
        write_arrays(path, params)
        return fingerprint(params)

    return new_export(
        path,
        write_params,
        model=model,
        vocabulary=(f"vocabulary{vocabulary.suffix}", vocabulary.read_bytes()),
        provenance=provenance,
        dtype=dtype,
        seq_len=seq_len,
        files=files,
    )


def new_export(
    path: epath.PathLike,
    write_params: Callable[[epath.Path], str],
    *,
    model: TransformerConfig,
    vocabulary: tuple[str, bytes],
    provenance: Mapping[str, Any],
    dtype: str,
    seq_len: int,
    files: Mapping[str, str] | None = None,
) -> Export:
    """Writes the new export `path`, whose arrays `write_params` writes.

    All processes must call it.

    Args:
      path: The directory to write; it must not exist.
      write_params: Writes the arrays into the directory that it is given, and returns
        their fingerprint.
      model: The shape of the arrays.
      vocabulary: The name of the vocabulary file and its contents.
      provenance: As for `write_export`.
      dtype: The dtype of the arrays.
      seq_len: As for `write_export`.
      files: As for `write_export`.

    Raises:
      ValueError: `dtype` is not supported, or `path` exists.
    """
    path = absolute(path)
    check_new(path, dtype)
    unfinished = unfinished_path(path)
    is_first = jax.process_index() == 0
    try:
        if is_first:
            begin_folder(path)
        about = {
            "format_version": FORMAT_VERSION,
            "dtype": dtype,
            "fingerprint": write_params(unfinished / "params"),
            "seq_len": seq_len,
            "provenance": dict(provenance),
        }
        if is_first:
            _write_beside(unfinished, path, about, model, vocabulary, files or {})
    except BaseException:
        if is_first:
            unfinished.rmtree(missing_ok=True)
        raise
    multihost_utils.sync_global_devices(f"exported {path}")
    return Export.open(path)


def _write_beside(
    unfinished: epath.Path,
    path: epath.Path,
    about: Mapping[str, Any],
    model: TransformerConfig,
    vocabulary: tuple[str, bytes],
    files: Mapping[str, str],
) -> None:
    """Writes the files beside the arrays, and gives the export its name."""
    name, content = vocabulary
    beside = {name: content, "model.json": record_bytes(dataclasses.asdict(model))}
    beside |= {file: text.encode() for file, text in files.items()}
    digests = {file: sha256_of(contents) for file, contents in beside.items()}
    about = {
        **about,
        "vocabulary_file": name,
        "vocabulary_fingerprint": digests[name],
        "files": digests,
    }
    beside["README.md"] = _readme(path.name, model, about).encode()
    for file, contents in beside.items():
        write_file(unfinished / file, contents)
    write_record(unfinished / "export.json", about)
    name_folder(unfinished, path)


def check_new(path: epath.PathLike, dtype: str) -> None:
    """Checks that an export in `dtype` can be written to `path`.

    Raises:
      ValueError: `dtype` is not supported, `path` exists, or Orbax cannot write to it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    check_name(absolute(path))
    if is_there(absolute(path)):
        raise ValueError(f"Not exporting to {path}: it exists. Remove it first.")


def _readme(name: str, model: TransformerConfig, about: Mapping[str, Any]) -> str:
    """Returns the README.md of the export `name`, whose export.json is `about`."""
    origin = "\n".join(
        f"- {key}: {about['provenance'][key]}" for key in about["provenance"]
    )
    return f"""# {name}

The parameters of a decoder language model, exported by salt_jax: {model.num_layers}
layers, {model.embed_dim} wide, a vocabulary of {model.vocab_size}, as {about["dtype"]}.

Provenance:

{origin or "- (nothing was recorded)"}

Files: `params/` (Orbax arrays), `model.json` (the shape of the model),
`{about["vocabulary_file"]}` (its vocabulary), `export.json` (versions and
fingerprints). Name this directory in an experiment as its teacher or scorer, or read it
with `salt_jax.storage.export.Export.open`.

SHA-256 of the vocabulary: {about["vocabulary_fingerprint"]}
Fingerprint of the parameters: {about["fingerprint"]}
"""
