"""Prepare a corpus: tokenize and shuffle it, and cut it into sequences.

The sequences are written to disk. A run that was killed resumes with the parts and
shards that are missing. --verify reads what was prepared and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time

from salt_jax.commands.options import GinOptions, add_gin
from salt_jax.commands.outputs import record
from salt_jax.files.bill import add_seconds

EXAMPLES = """\
  salt_jax prepare --gin_file=gin/tiny_prepare.gin
  salt_jax prepare --gin_file=gin/prepare_pile.gin --verify
  salt_jax prepare --gin_file=gin/prepare_pile.gin --beam='--runner=DataflowRunner'"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of prepare."""

    verify: bool = False
    beam: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.verify and self.beam is not None:
            raise ValueError("--verify reads what is prepared: leave out --beam.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of prepare."""
    add_gin(parser)
    group = parser.add_argument_group("how")
    group.add_argument(
        "--verify",
        action="store_true",
        help="check everything that is prepared against its checksums and counts",
    )
    group.add_argument(
        "--beam",
        metavar="FLAGS",
        help="run on Apache Beam with these pipeline flags; '' for none "
        "(default: processes on this machine)",
    )


def run(options: Options) -> int:
    """Prepares the corpus, or verifies it.

    Raises:
      FileNotFoundError: a gin file or the corpus is missing.
      ValueError: what is prepared differs or is damaged.
      ModuleNotFoundError: Beam is not installed.
    """
    from salt_jax.data.preparing.prepare import Preparation, prepare
    from salt_jax.data.preparing.verify import verify

    preparation, began = options.load("prepare", Preparation), time.monotonic()
    if options.beam is not None:
        # In an extra, and slow to import.
        from salt_jax.data.preparing.beam_prepare import prepare_with_beam

        prepare_with_beam(preparation, shlex.split(options.beam))
        add_seconds(preparation.output, "prepare", time.monotonic() - began)
        record(preparation.output, "prepare", options)
    elif not options.verify:
        splits = prepare(preparation).values()
        add_seconds(
            preparation.output,
            "prepare",
            time.monotonic() - began,
            rows=sum(map(len, splits)),
            tokens=sum(split.manifest.num_tokens for split in splits),
        )
        record(preparation.output, "prepare", options)
    elif failures := verify(preparation):
        for failure in failures:
            print(f"salt_jax: {failure}", file=sys.stderr)
        raise ValueError(
            f"{len(failures)} failures: fetch what is damaged again, or delete the "
            "folder of its split and prepare that again."
        )
    return 0
