"""Import of a Hugging Face folder as an export: a teacher or an initialization.

Tensors are read one at a time and written layer by layer, so the largest tensor bounds
the memory. No pickle is ever opened, and no code that comes with a model is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from salt_jax.files.records import read_object
from salt_jax.hugging_face.architectures import Architecture, architecture_in
from salt_jax.hugging_face.chat_template import read_chat_template
from salt_jax.hugging_face.checksums import check_checksums
from salt_jax.hugging_face.config_json import read_model
from salt_jax.hugging_face.gin_text import model_gin
from salt_jax.hugging_face.safetensors_files import (
    StoredTensor,
    few,
    open_tensors,
)
from salt_jax.hugging_face.tensors import Tensor, shapes_of, tensors_of
from salt_jax.hugging_face.tokenizer_files import read_tokenizer
from salt_jax.model.config import TransformerConfig
from salt_jax.storage.array_files import absolute
from salt_jax.storage.array_pieces import ArrayWriter
from salt_jax.storage.export import CHAT_TEMPLATE, Export
from salt_jax.storage.export_writing import check_new, new_export
from salt_jax.storage.finite import NotFiniteError

# Tables in old files that the model computes instead.
_COMPUTED = ".rotary_emb.inv_freq"
_HEAD = "lm_head.weight"
_PREFIX, _EMBEDDING = "model.", "embed_tokens.weight"


def import_from_hugging_face(
    folder: epath.PathLike, output: epath.PathLike, *, dtype: str | None = None
) -> Export:
    """Writes the model in `folder` as an export, and returns the export.

    Args:
      folder: A folder with config.json, safetensors and a tokenizer.
      output: The new export.
      dtype: The dtype of the arrays, "float32" or "bfloat16". None: bfloat16 if all
        tensors are bfloat16, else float32.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the architecture has parts that this model lacks; tensors are missing,
        unknown or of other shapes; a file is damaged or pickled; or the tokenizer has
        more tokens than the model.
    """
    folder, output = absolute(folder), absolute(output)
    check_checksums(folder)
    architecture, model, seq_len = read_shape(folder)
    found = _with_prefix(open_tensors(folder))
    if model.num_layers > len(found):
        raise ValueError(
            f"{folder / 'config.json'} has num_hidden_layers={model.num_layers:,}, and "
            f"there are {len(found):,} tensors: they are of different models."
        )
    tensors = tensors_of(model, architecture)
    _check_tensors(folder, tensors, found)
    dtype = dtype or _dtype(found)
    model = dataclasses.replace(model, dtype=dtype)
    content, name = read_tokenizer(folder, vocab_size=model.vocab_size)
    check_new(output, dtype)
    logging.info("Importing %s from %s.", architecture.name, folder)

    def write_params(path: epath.Path) -> str:
        with ArrayWriter(path, shapes_of(model, dtype)) as writer:
            return _write(writer, tensors, found)

    provenance = {
        "imported_from": str(folder),
        "architecture": architecture.name,
        "step": 0,
    }
    files = {"model.gin": model_gin(model, architecture.name)}
    if (template := read_chat_template(folder)) is not None:
        files[CHAT_TEMPLATE] = template
    export = new_export(
        output,
        write_params,
        model=model,
        vocabulary=(name, content),
        provenance=provenance,
        dtype=dtype,
        seq_len=seq_len,
        files=files,
    )
    logging.info("Imported %s to %s.", architecture.name, output)
    return export


def _write(
    writer: ArrayWriter, tensors: Sequence[Tensor], found: Mapping[str, StoredTensor]
) -> str:
    """Writes tensors one after another; returns the fingerprint of the arrays."""
    for tensor in tensors:
        values = tensor.to_ours(found[tensor.name].read())
        try:
            writer.write(tensor.parameter, values, tensor.layer)
        except NotFiniteError as error:
            where = f"{tensor.name} in {found[tensor.name].path}"
            raise ValueError(f"{where}: {error}") from error
        del values  # Freed before the next tensor is read.
    return writer.finish()


def _dtype(found: Mapping[str, StoredTensor]) -> str:
    """Returns the dtype that represents all tensors exactly."""
    is_narrow = {tensor.dtype.name for tensor in found.values()} == {"bfloat16"}
    return "bfloat16" if is_narrow else "float32"


def read_shape(folder: epath.Path) -> tuple[Architecture, TransformerConfig, int]:
    """Returns the architecture, the model and the longest text of a config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it has parts that this model lacks, or fields of other types.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"No {path}: give the folder of a Hugging Face model.")
    about = read_object(path, remedy="fetch it again")
    try:
        return architecture_in(about), read_model(about), _max_length(about)
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        # A field of another type fails wherever it is used.
        said = str(error).removeprefix("config.json has ")
        raise ValueError(f"{path} has {said}") from error


def _max_length(about: Mapping[str, Any]) -> int:
    length = about.get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        raise ValueError(
            f"config.json has max_position_embeddings={length!r}, not a positive "
            "integer."
        )
    return length


def _check_tensors(
    folder: epath.Path, tensors: Sequence[Tensor], found: Mapping[str, StoredTensor]
) -> None:
    """Raises ValueError if tensors are missing, unknown or of other shapes."""
    wanted = {tensor.name: tensor.shape for tensor in tensors}
    missing = [name for name in wanted if name not in found]
    extra = [
        name for name in found if name not in wanted and not _is_spare(name, wanted)
    ]
    for what, names in (("lacks", missing), ("has unknown tensors", extra)):
        if names:
            raise ValueError(
                f"{folder} {what} {few(names)}: its config.json is of another model, "
                "or files are missing."
            )
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ValueError(
                f"{name} in {found[name].path} has shape {list(found[name].shape)}, "
                f"and config.json implies {list(shape)}."
            )
    if _HEAD in found and _HEAD not in wanted:
        _check_tied(found)


def _with_prefix(found: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Returns tensors by the names that they have in a model with a head.

    A base model, such as a LlamaModel, is saved without "model." before its names.
    """
    if f"{_PREFIX}{_EMBEDDING}" in found or _EMBEDDING not in found:
        return found
    return {
        name if name == _HEAD else f"{_PREFIX}{name}": tensor
        for name, tensor in found.items()
    }


def _check_tied(found: Mapping[str, StoredTensor]) -> None:
    """Raises ValueError if a head that is to be the embedding is another matrix."""
    head, embedding = found[_HEAD], found[f"{_PREFIX}{_EMBEDDING}"]
    if head.shape != embedding.shape or any(
        not np.array_equal(one, other)
        for one, other in zip(head.rows(), embedding.rows(), strict=True)
    ):
        raise ValueError(
            f"{_HEAD} in {head.path} is not the embedding, and config.json has "
            "tie_word_embeddings=true: set it to false to import this head, or remove "
            "the tensor to use the embedding."
        )


def _is_spare(name: str, wanted: Mapping[str, Any]) -> bool:
    """Returns whether a tensor is redundant: a tied copy or a computed table."""
    is_tied_copy = name == _HEAD and name not in wanted
    return is_tied_copy or name.endswith(_COMPUTED)
