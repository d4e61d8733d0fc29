"""Export to a folder that transformers loads without any code of salt_jax.

Tensors are read and written one at a time, so the largest tensor bounds the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from salt_jax.data.tokenizer_json import as_json
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.writing import new_folder, write_file
from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.checksums import write_checksums
from salt_jax.hugging_face.config_json import write_model
from salt_jax.hugging_face.model_card import model_card
from salt_jax.hugging_face.safetensors_writing import SHARD_BYTES, write_tensors
from salt_jax.hugging_face.tensors import Tensor, tensors_of
from salt_jax.hugging_face.tokenizer_files import tokenizer_files
from salt_jax.storage.array_files import CHUNK_BYTES, CorruptArraysError, absolute
from salt_jax.storage.array_pieces import StoredArrays, contiguous
from salt_jax.storage.export import CHAT_TEMPLATE, Export
from salt_jax.storage.export_writing import check_new


def export_to_hugging_face(
    export: Export,
    output: epath.PathLike,
    *,
    dtype: str,
    max_length: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `export` as the new folder `output`: tensors, config, tokenizer and card.

    Args:
      export: The export to write.
      output: The new folder.
      dtype: The dtype of the tensors, "float32" or "bfloat16".
      max_length: The longest text, in tokens; None: the length in the export.
      shard_bytes: The size limit of a file; a larger tensor has a file of its own.

    Raises:
      ValueError: transformers has no class for the model, the export is damaged, or
        `output` exists.
    """
    output = absolute(output)
    check_new(output, dtype)
    length = export.max_length(max_length)
    architecture = architecture_of(export.model)
    vocabulary = Vocabulary.open(export.vocabulary_path)
    special_tokens = _special_tokens(vocabulary)
    config = write_model(
        export.model, max_length=length, dtype=dtype, special_tokens=special_tokens
    )
    tokenizer = tokenizer_files(vocabulary, model_type=architecture.model_type)
    card = model_card(
        export,
        output.name,
        architecture=architecture,
        dtype=dtype,
        max_length=length,
    )
    ends = list(vocabulary.end_ids)
    generation = special_tokens | ({"eos_token_id": ends} if len(ends) > 1 else {})
    tokenizer |= {
        "config.json": as_json(config),
        "generation_config.json": as_json(generation),
    }
    if (template := export.chat_template) is not None:
        tokenizer[CHAT_TEMPLATE] = template.encode()
    with new_folder(output) as unfinished:
        for name, content in tokenizer.items():
            write_file(unfinished / name, content)
        _write_tensors(export, unfinished, dtype=dtype, shard_bytes=shard_bytes)
        write_checksums(unfinished)
        write_file(unfinished / "README.md", card)
    logging.info("Wrote %s to %s.", architecture.name, output)


def _write_tensors(
    export: Export, folder: epath.Path, *, dtype: str, shard_bytes: int
) -> None:
    tensors = tensors_of(export.model, architecture_of(export.model))
    by_name = {tensor.name: tensor for tensor in tensors}
    try:
        stored = StoredArrays(export.path / "params")
        _check_arrays(export, stored, tensors)
        write_tensors(
            folder,
            {tensor.name: tensor.shape for tensor in tensors},
            dtype,
            lambda name: _rows(stored, by_name[name], dtype),
            shard_bytes,
        )
    except CorruptArraysError as error:
        raise ValueError(
            f"The export at {export.path} is damaged: {error} Export again."
        ) from error
    export.check_fingerprint(stored.fingerprint())


def _rows(stored: StoredArrays, tensor: Tensor, dtype: str) -> Iterator[np.ndarray]:
    """Yields a tensor in `dtype`, some rows at a time."""
    pieces = stored.pieces(tensor.parameter, tensor.layer)
    if not tensor.is_transposed:
        for _, piece in pieces:
            yield tensor.as_theirs(piece).astype(dtype)
        return
    # A row of theirs is a column of ours, so the whole array has to be in memory.
    values = np.empty(tensor.ours, jnp.dtype(dtype))
    for begin, piece in pieces:
        values[begin : begin + len(piece)] = piece
    rows = tensor.to_theirs(values)
    step = max(1, CHUNK_BYTES // (rows.shape[1] * values.itemsize))
    for begin in range(0, len(rows), step):
        yield contiguous(rows[begin : begin + step])


def _check_arrays(export: Export, stored: StoredArrays, tensors: list[Tensor]) -> None:
    """Raises ValueError if names or shapes are not those of the export's model."""
    found = {name: array.shape for name, array in stored.shapes.items()}
    wanted = {tensor.parameter: tensor.facts.shape for tensor in tensors}
    for name in sorted(wanted | found):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"The export at {export.path} is damaged: {name} has shape "
                f"{found.get(name)}, and the model expects {wanted.get(name)}. Export "
                "again."
            )


def _special_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Returns the ids of the tokens that begin, end and pad."""
    begin, end, padding = vocabulary.begin_id, vocabulary.eos_id, vocabulary.pad_id
    # Transformers masks padding in a prompt, so the first token must not be padding.
    padding = end if padding == begin else padding
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": padding}
