"""Run a laboratory: arms over seeds, and their report.

The commands run one after another, each in its own folder. What is complete is skipped:
stop a laboratory whenever you like, and start it again. Several processes may work on
one laboratory together. A command that fails stops only those that need it.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from salt_jax.commands import streams
from salt_jax.commands.options import GinOptions, add_gin, positive
from salt_jax.commands.outputs import record

if TYPE_CHECKING:
    from salt_jax.lab.graph import Node, Plan, Reading
    from salt_jax.lab.running import Outcome
    from salt_jax.lab.values import Lab

EXAMPLES = """\
  salt_jax lab --gin_file=gin/lab_tiny.gin --list
  salt_jax lab --gin_file=gin/lab_tiny.gin
  salt_jax lab --gin_file=gin/lab_tiny.gin --only='baseline/seed-0/*'"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of lab."""

    list: bool = False
    report: bool = False
    into: str | None = None
    brief: bool = False
    only: Sequence[str] = ()
    jobs: int = 1
    hosts: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.brief and self.into is None:
            raise ValueError("--brief is for a document: give --into=FILE.")
        no_report = self.list or (self.only and not self.report)
        if self.into is not None and no_report:
            raise ValueError(
                f"--into={self.into} is for the report, which --list and --only do not "
                "write: leave them out, or give --report."
            )


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
        "--report",
        action="store_true",
        help="write the report of what is complete by now, and run nothing",
    )
    group.add_argument(
        "--into",
        metavar="FILE",
        help="Markdown document that gets the report's main tables, between the lines "
        "'<!-- lab NAME -->' and '<!-- end of lab NAME -->'",
    )
    group.add_argument(
        "--brief",
        action="store_true",
        help="with --into: one table of the main columns",
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
    group.add_argument(
        "--hosts",
        metavar="WORDS",
        help="words before commands that several processes run together, such as "
        "'srun'; these then get --distributed=auto",
    )


def run(options: Options) -> int:
    """Runs what is not complete, and writes the report.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: the laboratory, or an experiment in it, is refused; or another command
        made what is at the place of a run.
    """
    import jax

    from salt_jax.lab import lab_file
    from salt_jax.lab.planning import plan
    from salt_jax.lab.values import Lab

    # The accelerators are for the commands: whoever opens one holds it.
    jax.config.update("jax_platforms", "cpu")
    lab = options.load("lab", Lab)
    planned = plan(lab, reading())
    names = _chosen(planned, options.only)
    _check_commands(planned)
    if options.list:
        print("\n".join(_listed(planned, names)))
        return 0
    with streams.lossy_stdout():
        lab_file.write(lab, planned)
        if options.report:
            _write_report(lab, options)
            return 0
        outcome = _run(lab, planned, names, options)
        print("\n".join(_summary(lab, outcome, len(names))))
        if outcome.stopped is not None:
            return outcome.stopped
        if not options.only:
            _write_report(lab, options)
        return 1 if outcome.failed else 0


def _write_report(lab: Lab, options: Options) -> None:
    from salt_jax.lab import lab_file
    from salt_jax.report.arms.write import write_lab_report

    folder = lab_file.folder_of(lab)
    record(folder, "lab", options)  # The tables name the command.
    page = write_lab_report(folder, options.into, brief=options.brief)
    print(f"The report is {page}.")


def _run(lab: Lab, planned: Plan, names: Sequence[str], options: Options) -> Outcome:
    from salt_jax.commands.parser import COMMANDS
    from salt_jax.lab.running import Runner
    from salt_jax.telemetry import versions

    def command_of(node: Node) -> list[str]:
        words = [sys.executable, "-m", "salt_jax.main", *node.argv]
        fields = importlib.import_module(COMMANDS[node.argv[0]]).Options
        if options.hosts is None or "distributed" not in fields.__dataclass_fields__:
            return words
        return [*shlex.split(options.hosts), *words, "--distributed=auto"]

    nodes = {name: planned.nodes[name] for name in names}
    runner = Runner(
        nodes, lab.root, command_of, versions.of_code(), lambda x: print(x, flush=True)
    )
    return runner.run(options.jobs)


def _summary(lab: Lab, outcome: Outcome, count: int) -> Iterator[str]:
    """Yields lines that say what came of the commands."""
    from salt_jax.lab import markers

    made, before = len(outcome.made), len(outcome.before)
    parts = [f"{made + before} complete, {before} of them before"]
    parts += [f"{len(outcome.failed)} failed"] * bool(outcome.failed)
    parts += [f"{len(outcome.blocked)} need those"] * bool(outcome.blocked)
    if outcome.stopped is not None:
        parts.append("stopped: the same command goes on")
    yield f"Lab {lab.name}: of {count} commands {', '.join(parts)}."
    for name, ended in outcome.failed.items():
        log = markers.log_of(lab.root, name)
        yield f"  {name} failed with exit code {ended.exit}: {ended.last_line}"
        yield f"    all it said: {log}"
    for name, because in outcome.blocked.items():
        yield f"  {name} was not run: it needs {because}"


def reading() -> Reading:
    """Returns how a plan reads gin files."""
    from salt_jax import gin_config
    from salt_jax.config import as_json
    from salt_jax.lab.graph import Reading
    from salt_jax.training.step_costs import cost_of

    def programs(experiment: Any) -> tuple[frozenset[str], str]:
        of, last = as_json(experiment), experiment.stages[-1]
        plain = dataclasses.replace(last, distillation=None)

        def cost(stage: Any, rows: int) -> str:
            return json.dumps(cost_of(of, as_json(stage), rows), sort_keys=True)

        costs = [
            cost(stage, rows)
            for stage in experiment.stages
            for rows in experiment.sizes_of(stage.name)
        ]
        return frozenset(costs), cost(plain, experiment.largest_batch)

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
