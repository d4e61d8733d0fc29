"""Show which sequences each stage selects by score.

Nothing is trained. selection.html and selection.json describe what each stage keeps,
by domain and score, with examples.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

from etils import epath

from salt_jax.commands.options import RunOptions, add_gin, add_workdir
from salt_jax.commands.outputs import record
from salt_jax.files.bill import add_seconds
from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax select --gin_file=gin/tiny_salt_ds.gin
  salt_jax select --gin_file=gin/salt_2p8b.gin --gin.KEEP_FRACTION=0.25 \\
      --output=/tmp/quarter"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of select."""

    output: str | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of select."""
    add_gin(parser)
    group = parser.add_argument_group("output")
    add_workdir(group.add_argument)
    group.add_argument(
        "--output",
        metavar="DIR",
        help="where to write (default: selection/ in the run directory)",
    )


def run(options: Options) -> int:
    """Writes the pages and prints their warnings.

    Raises:
      FileNotFoundError: a gin file, the data or scores are missing.
      ValueError: no stage selects, or data and scores do not go together.
    """
    from salt_jax.config import Experiment
    from salt_jax.report.selection import report_selections

    experiment = options.load("select", Experiment)
    output = epath.Path(options.output or options.run_directory() / "selection")
    with alone_at(output):
        began = time.monotonic()
        warnings = report_selections(experiment, output)
        add_seconds(output, "select", time.monotonic() - began)
    for line in warnings:
        print(line)
    print(f"The selection is shown in {output / 'selection.html'}.")
    record(options.output or options.run_directory(), "select", options)
    return 0
