"""Measure held-out loss of a run, or ask exports few-shot tasks.

With --gin_file, the held-out data of the experiment is read by a checkpoint of the run
or by an --export; evaluation.json and samples.json are written into the run directory,
with --average evaluation_average.json and samples_average.json.
A fine-tuned student answers its held-out questions instead.

With --tasks, every --export answers the tasks of lm-evaluation-harness, and a table
compares them. --gin_file is then optional: it names the mesh.
"""

from __future__ import annotations

import argparse
import dataclasses

from salt_jax.commands import few_shot
from salt_jax.commands.options import (
    RunOptions,
    add_average,
    add_distributed,
    add_gin,
    add_workdir,
    join,
)
from salt_jax.commands.outputs import record

EXAMPLES = """\
  salt_jax evaluate --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  salt_jax evaluate --gin_file=gin/salt_2p8b.gin --step=best
  salt_jax evaluate --tasks=embedded --export=exports/baseline --export=exports/salt"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(RunOptions, few_shot.TaskOptions):
    """The options of evaluate."""

    step: str = "latest"
    average: bool = False
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.tasks is not None:
            self.check_tasks()
            if self.step != "latest" or self.workdir or self.average:
                raise ValueError(
                    "--step, --average and --workdir are of a run, and --tasks are for "
                    "exports."
                )
            return
        if self.average and self.export:
            raise ValueError("--average is of a run, --export is not: give one.")
        if self.gin_file and len(self.export) > 1:
            raise ValueError(
                f"Held-out loss is of one --export at a time, got {len(self.export)}."
            )
        for name in self.given_for_tasks():
            raise ValueError(f"--{name} is for --tasks: give them, or leave it out.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of evaluate."""
    add_gin(parser)
    group = parser.add_argument_group("model")
    add_workdir(group.add_argument)
    group.add_argument(
        "--step",
        metavar="N|latest|best",
        help="checkpoint of the run; best has the lowest held-out loss "
        "(default: %(default)s)",
    )
    add_average(group.add_argument)
    group.add_argument(
        "--export",
        action="append",
        metavar="DIR",
        help="export to evaluate in place of a run; repeatable with --tasks",
    )
    add_distributed(group.add_argument)
    few_shot.add_flags(parser)


def run(options: Options) -> int:
    """Evaluates, prints a table, and writes the results.

    Raises:
      FileNotFoundError: a gin file, the checkpoint or an export is missing.
      ValueError: it is of another model or vocabulary, or does not fit the devices.
    """
    join(options.distributed)
    import jax

    from salt_jax.config import Experiment

    if options.tasks is not None:
        output = few_shot.run(options, options.placement("evaluate"))
        record(output, "evaluate", options)
        return 0
    from salt_jax.evaluate import evaluate_run

    experiment = options.load("evaluate", Experiment)
    table = evaluate_run(
        experiment,
        options.run_directory(),
        step=options.step,
        export=options.export[0] if options.export else None,
        average=options.average,
    )
    if jax.process_index() == 0:
        print(table)
    record(options.run_directory(), "evaluate", options)
    return 0
