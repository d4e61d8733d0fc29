"""Few-shot evaluation, `evaluate --tasks`: its options and the printed tables."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.commands.options import positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The options of `evaluate --tasks`."""

    export: Sequence[str] = ()
    tasks: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    slices_by: str | None = None
    max_length: int | None = None
    batch_size: int = 8
    dtype: str | None = None
    output: str | None = None
    confirm_run_unsafe_code: bool = False

    def names(self) -> list[str]:
        """Returns the names of the tasks."""
        return [name.strip() for name in (self.tasks or "").split(",")]

    def check_tasks(self) -> None:
        """Refuses tasks without exports or names.

        Raises:
          ValueError: there is no export, or a name is empty.
        """
        if not self.export:
            raise ValueError("--tasks asks exports: give --export=DIR, once or more.")
        if not all(self.names()):
            raise ValueError(f"--tasks={self.tasks} has an empty name.")

    def given_for_tasks(self) -> list[str]:
        """Returns the names of the options that were given, and only tasks need."""
        return [
            field.name
            for field in dataclasses.fields(TaskOptions)
            if field.name not in ("export", "tasks")
            and getattr(self, field.name) != field.default
        ]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that evaluate has for tasks."""
    group = parser.add_argument_group("few-shot tasks (with --tasks only)")
    add = group.add_argument
    add(
        "--tasks",
        metavar="A,B",
        help="tasks or groups of lm-evaluation-harness; embedded needs no download",
    )
    add(
        "--num_fewshot",
        type=int,
        metavar="N",
        help="examples before each question (default: as the task says)",
    )
    add(
        "--limit",
        type=positive,
        metavar="N",
        help="at most N questions of each task (default: all)",
    )
    add(
        "--slices_by",
        metavar="DIR",
        help="also report easy, medium and hard thirds, by this export's likelihood "
        "of the right answer",
    )
    add(
        "--output",
        metavar="DIR",
        help="where results are written (default: runs/few_shot)",
    )
    add(
        "--confirm_run_unsafe_code",
        action="store_true",
        help="run the code that a model writes for a task such as humaneval",
    )
    _add_computation(parser)


def _add_computation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computation (with --tasks only)")
    add = group.add_argument
    add(
        "--max_length",
        type=positive,
        metavar="N",
        help="context length in tokens (default: the training length)",
    )
    add(
        "--batch_size",
        type=positive,
        metavar="N",
        help="questions of the longest kind at a time (default: %(default)s)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the computation (default: the export's)",
    )


def run(options: TaskOptions, where: Mapping[str, Any]) -> epath.Path:
    """Asks each export all tasks, prints a table, and writes what lm-eval would.

    Args:
      options: Exports and tasks.
      where: The `mesh` and `rules` of an experiment; empty: all devices in a row.

    Returns:
      The folder of the results.

    Raises:
      FileNotFoundError: there is no such export.
      ModuleNotFoundError: lm-eval is not installed.
      ValueError: a task or an export cannot be used, or an
        export has no room for the answers of a task.
    """
    import jax

    from salt_jax.few_shot.side_by_side import AskOptions, compare_exports
    from salt_jax.few_shot.table import render

    output = epath.Path(options.output or "runs/few_shot")
    settings = AskOptions(
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        max_length=options.max_length,
        batch_size=options.batch_size,
        dtype=options.dtype,
        run_unsafe_code=options.confirm_run_unsafe_code,
        where=where,
    )
    tables = compare_exports(
        options.export, options.names(), settings, output, slices_by=options.slices_by
    )
    if jax.process_index() == 0:
        for rows in tables.values():
            print(render(rows) if rows else "No task can be split.", end="\n\n")
        print(f"All numbers and answers are in {output}.")
    return output
