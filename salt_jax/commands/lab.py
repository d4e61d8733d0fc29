"""Run a laboratory: all commands that compare arms over seeds, and the report.

The commands run one after another, each in its own folder. What is complete is skipped:
stop a laboratory whenever you like, and start it again. Several processes may work on
one laboratory together. A command that fails stops only those that need it.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from salt_jax.commands.options import GinOptions, add_gin, positive

if TYPE_CHECKING:
    from salt_jax.lab.graph import Plan, Reading

EXAMPLES = """\
  salt_jax lab --gin_file=gin/lab_tiny.gin --list
  salt_jax lab --gin_file=gin/lab_tiny.gin
  salt_jax lab --gin_file=gin/lab_tiny.gin --only='baseline/seed-0/*'"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of lab."""

    list: bool = False
    only: Sequence[str] = ()
    jobs: int = 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of lab."""
    add_gin(parser)
    group = parser.add_argument_group("commands")
    group.add_argument(
        "--list",
        action="store_true",
        help="print the commands, each after those that it needs, and run nothing",
    )
    group.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="only the commands of these names and those that they need, and no "
        "report, such as 'salt/*'; repeatable",
    )
    group.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="commands to run at once (default: %(default)s)",
    )


def run(options: Options) -> int:
    """Runs what is not complete, and writes the report.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: the laboratory, or an experiment in it, is refused; or another command
        made what is at the place of a run.
    """
    from salt_jax.lab import lab_file
    from salt_jax.lab.planning import plan
    from salt_jax.lab.values import Lab

    lab = options.load("lab", Lab)
    planned = plan(lab, reading())
    names = _chosen(planned, options.only)
    _check_commands(planned)
    if options.list:
        print("\n".join(_listed(planned, names)))
        return 0
    lab_file.write(lab, planned)
    return 0


def reading() -> Reading:
    """Returns how a plan reads gin files."""
    from salt_jax import gin_config
    from salt_jax.config import as_json
    from salt_jax.lab.graph import Reading
    from salt_jax.training.step_times import cost_of

    def programs(experiment: Any) -> tuple[frozenset[str], str]:
        of, last = as_json(experiment), experiment.stages[-1]
        plain = dataclasses.replace(last, distillation=None)
        stages = [as_json(stage) for stage in (*experiment.stages, plain)]
        costs = [json.dumps(cost_of(of, stage), sort_keys=True) for stage in stages]
        return frozenset(costs[:-1]), costs[-1]

    return Reading(
        load=lambda files, bindings, imports: gin_config.load(files, bindings, imports),
        programs=programs,
    )


def _chosen(planned: Plan, patterns: Sequence[str]) -> list[str]:
    """Returns the names of the commands to run, in order."""
    if not patterns:
        return list(planned.nodes)
    chosen: list[str] = []
    for pattern in patterns:
        matching = fnmatch.filter(planned.nodes, pattern)
        if not matching:
            raise ValueError(
                f"--only={pattern} matches none of the {len(planned.nodes)} commands; "
                "--list shows their names."
            )
        chosen += matching
    return planned.with_needs(chosen)


def _check_commands(planned: Plan) -> None:
    """Refuses options that a command does not have."""
    from salt_jax.commands.parser import parse

    for node in planned.nodes.values():
        try:
            parse(node.argv)
        except ValueError as error:
            raise ValueError(f"{node.name}: {error}") from error


def _listed(planned: Plan, names: Sequence[str]) -> Iterator[str]:
    """Yields the commands for a shell, each below its name and what it needs."""
    for name in names:
        node = planned.nodes[name]
        after = f" after {' '.join(node.needs)}" if node.needs else ""
        yield f"# {name}{after}"
        yield f"salt_jax {shlex.join(node.argv)}"
