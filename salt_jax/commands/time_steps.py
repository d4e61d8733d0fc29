"""Measure step times of an experiment's stages side by side.

Blocks of steps of each stage's update alternate in random order, so that whatever else
the machine does falls on all of them; the ratios between stages then hold on a busy
machine too. Parameters and batches are random, and no run is touched. A plain update,
without a teacher, is always measured. report --step_times compares runs by these times.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.commands.options import (
    GinOptions,
    add_distributed,
    add_gin,
    join,
    positive,
)
from salt_jax.commands.outputs import command_line

EXAMPLES = """\
  salt_jax time_steps --gin_file=gin/tiny_salt_ds.gin --beside=gin/tiny_slm.gin \\
      --output=runs/demo/step_times.json"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of time_steps."""

    output: str
    beside: Sequence[str] = ()
    beside_bindings: Sequence[str] = ()
    rounds: int = 30
    steps_per_block: int = 4
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.beside_bindings and not self.beside:
            raise ValueError(
                f"--beside_bindings={self.beside_bindings[0]} is for --beside, which "
                "is missing."
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of time_steps."""
    add_gin(parser)
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--beside",
        action="append",
        metavar="FILE",
        help="gin file of another experiment to measure too, such as the small "
        "model's; repeatable",
    )
    group.add_argument(
        "--beside_bindings",
        action="append",
        metavar="'NAME = VALUE'",
        help="override one binding of the files of --beside; repeatable",
    )
    group.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="blocks of each update (default: %(default)s)",
    )
    group.add_argument(
        "--steps_per_block",
        type=positive,
        metavar="N",
        help="steps between two readings of the clock (default: %(default)s)",
    )
    group.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="JSON file to write (required)",
    )
    add_distributed(group.add_argument)


def run(options: Options) -> int:
    """Measures, prints a table, and writes the JSON file.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: an experiment does not fit the devices.
    """
    join(options.distributed)
    import jax
    from etils import epath

    from salt_jax.config import Experiment
    from salt_jax.files.records import write_record
    from salt_jax.training.step_times import time_steps

    experiments = {_stem(options.gin_file[-1:]): options.load("time_steps", Experiment)}
    for file in options.beside:
        other = GinOptions(
            gin_file=(file,),
            gin_bindings=options.beside_bindings,
            gin_import=options.gin_import,
        )
        experiments[_stem([file])] = other.load("time_steps", Experiment)
    timed = time_steps(
        experiments, rounds=options.rounds, steps_per_block=options.steps_per_block
    )
    described = {
        "command": command_line("time_steps", options),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "steps_per_block": options.steps_per_block,
        "updates": [update.describe(plain=timed[0]) for update in timed],
    }
    if jax.process_index() == 0:
        output = epath.Path(options.output)
        write_record(output, described)
        print(_table(described["updates"]))
        print(f"All numbers are in {output}.")
    return 0


def _stem(files: Sequence[str]) -> str:
    return pathlib.PurePath(files[-1]).stem if files else ""


def _table(updates: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(update["name"]) for update in updates)
    header = ("step time", "quartiles", "of plain", "quartiles", "variation")
    lines = [f"{'update':<{width}}" + "".join(f"{name:>16}" for name in header)]
    for update in updates:
        ratio = update["ratio_to_plain"]
        cells = [
            f"{update['median']:.3g} s",
            "{:.3g} to {:.3g}".format(*update["quartiles"]),
            f"{ratio['median']:.3f}",
            "{:.3f} to {:.3f}".format(*ratio["quartiles"]),
            f"{update['coefficient_of_variation']:.1%}",
        ]
        lines.append(f"{update['name']:<{width}}" + "".join(f"{x:>16}" for x in cells))
    return "\n".join(lines)
