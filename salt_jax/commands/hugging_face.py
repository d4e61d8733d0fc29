"""The commands that read and write folders of Hugging Face."""

from __future__ import annotations

import argparse

import jax
from etils import epath

from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.model.config import TransformerConfig
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import check_new


def run_import(options: argparse.Namespace) -> None:
    """Writes the model in the folder that `options` name as an export.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an option is missing, or the model cannot be imported.
    """
    if not options.source or not options.output:
        raise ValueError("import needs --from=DIR and --output=DIR.")
    _check_one_process("import")
    import_from_hugging_face(options.source, options.output, dtype=options.dtype)
    print(f"The model is in {options.output}; model.gin there is its shape.")


def run_export(options: argparse.Namespace) -> None:
    """Writes the export that `options` name as a folder of Hugging Face.

    Raises what `write` does, and:
      ValueError: options do not go together.
    """
    if options.gin_file or options.format != "hf":
        raise ValueError("export --export=DIR needs --format=hf, and no --gin_file.")
    if len(options.export) > 1 or not options.output:
        raise ValueError("export takes one --export=DIR, and needs --output=DIR.")
    write(options, options.export[0], options.output)


def check(model: TransformerConfig, output: epath.PathLike, dtype: str) -> None:
    """Refuses what could not be written, before a checkpoint is read for it.

    Raises:
      ValueError: there are several processes, or no architecture of transformers is
        `model`, or something is at `output`.
    """
    _check_one_process("export --format=hf")
    architecture_of(model)
    check_new(output, dtype)


def write(
    options: argparse.Namespace, path: epath.PathLike, output: epath.PathLike
) -> None:
    """Writes the export at `path` to `output`, as `options` say.

    Raises:
      FileNotFoundError: there is no export.
      ValueError: it is damaged, or no architecture of transformers, or something is at
        `output`.
    """
    _check_one_process("export --format=hf")
    export = Export.open(path)
    export_to_hugging_face(
        export,
        output,
        dtype=options.dtype or export.dtype,
        max_length=options.max_length,
    )
    print(f"The model is in {output}, for AutoModelForCausalLM.from_pretrained.")


def _check_one_process(command: str) -> None:
    if jax.process_count() > 1:
        raise ValueError(f"{command} works in one process: leave out --distributed.")
