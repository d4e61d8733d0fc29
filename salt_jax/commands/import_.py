"""Import a Hugging Face model as an export.

The export can be a teacher, a scorer or the start of a student. model.gin beside it
binds the model's shape for gin files to include.
"""

from __future__ import annotations

import argparse
import dataclasses

from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax import --from=gemma-2b --output=/exports/gemma_2b --dtype=bfloat16"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of import."""

    source: str
    output: str
    dtype: str | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of import."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="DIR",
        help="Hugging Face folder: config.json, safetensors and tokenizer (required)",
    )
    group.add_argument(
        "--output", required=True, metavar="DIR", help="export to write (required)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the written parameters (default: as they are)",
    )


def run(options: Options) -> int:
    """Writes the export.

    Raises:
      FileNotFoundError: a file of the model is missing.
      ValueError: the model cannot be imported.
    """
    from salt_jax.hugging_face.importing import import_from_hugging_face

    with alone_at(options.output):
        import_from_hugging_face(options.source, options.output, dtype=options.dtype)
    print(f"The model is in {options.output}; model.gin there is its shape.")
    return 0
