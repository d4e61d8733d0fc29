"""Measure bias and variance of a teacher's soft labels.

Of a gin file that binds an Experiment: the gradient by one-hot labels and by those of
its teacher, resampled over batches with the student fixed, at every --export of the
student; and where the teacher is wrong and confident, by difficulty.

Of one that binds a KnownTruth: trains students of a language with a known truth, and
shows where soft labels win and where they lose. The same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from salt_jax.commands.options import GinOptions, add_gin, positive
from salt_jax.commands.outputs import alone_writing, command_line

EXAMPLES = """\
  salt_jax bias_variance --gin_file=gin/tiny_known_truth.gin
  salt_jax bias_variance --gin_file=gin/tiny_salt_ds.gin --output=runs/bias \\
      --export=runs/mine/export-50 --export=runs/mine/export-600"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of bias_variance."""

    export: Sequence[str] = ()
    output: str | None = None
    batches: int = 64
    confident_below: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.batches < 2:
            raise ValueError(f"A variance needs two --batches, got {self.batches}.")
        if not self.confident_below > 0:
            raise ValueError(
                f"--confident_below is an entropy above 0, got {self.confident_below}."
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of bias_variance."""
    add_gin(parser)
    group = parser.add_argument_group("students of an Experiment")
    group.add_argument(
        "--export",
        action="append",
        metavar="DIR",
        help="export of the student, at one of its steps; repeatable",
    )
    group.add_argument("--output", metavar="DIR", help="where to write the page")
    group.add_argument(
        "--batches",
        type=positive,
        metavar="N",
        help="batches over which gradients are resampled (default: %(default)s)",
    )
    group.add_argument(
        "--confident_below",
        type=float,
        metavar="NATS",
        help="entropy below which the teacher is confident (default: %(default)s)",
    )


def run(options: Options) -> int:
    """Writes the page.

    Raises:
      FileNotFoundError: a gin file, data or an export is missing.
      ValueError: they do not go together, or do not fit the devices.
    """
    from salt_jax.config import Experiment
    from salt_jax.studies.known_truth import KnownTruth

    job = options.load("bias_variance", Experiment, KnownTruth)
    defaults = Options(gin_file=options.gin_file)
    fields = ("export", "output", "batches", "confident_below")
    given = [x for x in fields if getattr(options, x) != getattr(defaults, x)]
    if isinstance(job, KnownTruth):
        if given:
            raise ValueError(
                f"--{given[0]} is for an Experiment: of a KnownTruth the gin file says "
                "all of it; --gin.OUTPUT=DIR says where."
            )
        output = job.output
    elif options.output is None or not options.export:
        raise ValueError(
            "Of an Experiment, give --output=DIR and one --export or more."
        )
    else:
        output = options.output
    # Slow to import: they reach Orbax and Matplotlib.
    from salt_jax.bias_variance.measure import measure_labels
    from salt_jax.bias_variance.study import run_study
    from salt_jax.bias_variance.write import write_page

    with alone_writing(output):
        if isinstance(job, KnownTruth):
            found = {"known_truth": run_study(job)}
        else:
            found = {
                "labels": measure_labels(
                    job,
                    options.export,
                    num_batches=options.batches,
                    confident_below=options.confident_below,
                )
            }
        page = write_page(output, found, command_line("bias_variance", options))
    print(f"The page is {page}.")
    return 0
