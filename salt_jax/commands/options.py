"""Options that several commands share: gin files, a run directory, processes."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from etils import epath

from salt_jax.commands.agreeing import agree
from salt_jax.files import buckets

Job = TypeVar("Job")

# What a gin file can bind, and the commands that take it; the first runs unnamed.
COMMANDS_OF = {
    "Experiment": (
        *("train", "select", "evaluate", "export", "compile"),
        *("time_steps", "describe", "bias_variance"),
    ),
    "Scoring": ("score", "compile", "describe"),
    "Preparation": ("prepare", "describe"),
    "Lab": ("lab", "describe"),
    "KnownTruth": ("bias_variance", "describe"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GinOptions:
    """Gin files, and what the command line changes in them."""

    gin_file: Sequence[str] = ()
    gin_bindings: Sequence[str] = ()
    gin_import: Sequence[str] = ()

    def __post_init__(self):
        if not self.gin_file and (idle := (*self.gin_bindings, *self.gin_import)):
            raise ValueError(
                f"{idle[0]!r} is for a gin file, and there is none: give "
                "--gin_file=FILE."
            )

    def load_any(self) -> Any:
        """Returns what the gin files bind: an experiment, a scoring or a preparation.

        Raises:
          FileNotFoundError: a gin file is missing.
          ValueError: none was given, gin cannot read one, or a binding has no effect.
        """
        # Slow to import: it reaches the model and the data.
        from salt_jax import gin_config

        if not self.gin_file:
            raise ValueError("Give --gin_file=FILE; see --help.")
        return gin_config.load(
            self.gin_file, self.gin_bindings, imports=self.gin_import
        )

    @overload
    def load(self, command: str, kind: type[Job], /) -> Job: ...

    @overload
    def load(self, command: str, /, *kinds: type) -> Any: ...

    def load(self, command: str, /, *kinds: type) -> Any:
        """Returns what the gin files bind, for a command that takes `kinds` of it.

        Raises what `load_any` does, and:
          ValueError: they bind something else.
        """
        job = self.load_any()
        if not isinstance(job, kinds):
            bound = type(job).__name__
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"{self.gin_file[-1]} binds {bound}, which can "
                f"{' or '.join(COMMANDS_OF[bound])}; {command} needs {wanted}."
            )
        if command not in ("compile", "describe"):  # They read no data.
            buckets.check_paths(job)
        agree(command, self, job)
        return job

    def placement(self, command: str) -> dict[str, Any]:
        """Returns the `mesh` and the `rules` of the experiment, if there is one.

        They are arguments of `LoadedModel.open`. Without an experiment there are none,
        and a model is split over all devices by the default mesh. Raises what `load`
        does.
        """
        if not self.gin_file:
            agree(command, self)
            return {}
        from salt_jax.config import Experiment

        experiment = self.load(command, Experiment)
        return {"mesh": experiment.mesh, "rules": experiment.rules}

    def operative_gin(self) -> str:
        """Returns the bindings that the last `load` made use of, as gin text."""
        from salt_jax import gin_config

        return gin_config.operative_config()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(GinOptions):
    """Gin files and the directory of the run that they describe."""

    workdir: str | None = None

    def run_directory(self) -> epath.Path:
        """Returns the run directory; by default it is named after the gin file."""
        stem = pathlib.PurePath(self.gin_file[-1]).stem
        return epath.Path(self.workdir or f"runs/{stem}")


def add_gin(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name gin files and override what they bind."""
    group = parser.add_argument_group(
        "experiment",
        "--gin.NAME=VALUE is short for --gin_bindings='NAME = VALUE'.",
    )
    group.add_argument(
        "--gin_file",
        action="append",
        metavar="FILE",
        help="gin file to run; salt_jax's own are found from any directory; a later "
        "file overrides an earlier one",
    )
    group.add_argument(
        "--gin_bindings",
        action="append",
        metavar="'NAME = VALUE'",
        help="override one binding; repeatable",
    )
    group.add_argument(
        "--gin_import",
        action="append",
        metavar="MODULE",
        help="Python module whose classes the bindings may name, such as my_schedules; "
        "repeatable",
    )


def add_workdir(add: Callable[..., Any]) -> None:
    """Adds the option that names the run directory, by a group's `add_argument`."""
    add(
        "--workdir",
        metavar="DIR",
        help="run directory (default: runs/ and the gin file's name without .gin)",
    )


def add_average(add: Callable[..., Any]) -> None:
    """Adds the option that reads a moving average, by a group's `add_argument`."""
    add(
        "--average",
        action="store_true",
        help="the moving average of the run's parameters, in place of the parameters",
    )


def add_distributed(add: Callable[..., Any]) -> None:
    """Adds the option of commands that several processes run together."""
    add(
        "--distributed",
        metavar="auto|HOST:PORT,COUNT,INDEX",
        help="join this process to others: auto reads the cluster's environment; "
        "otherwise the coordinator's address, the number of processes and this "
        "process's index (default: one process)",
    )


def join(processes: str | None) -> None:
    """Joins this process to others, before anything asks for a device.

    Args:
      processes: The value of --distributed; None: this process is alone.

    Raises:
      ValueError: the value cannot be read.
    """
    if processes is None:
        return
    from salt_jax.processes import job

    job.join(processes)


def positive(text: str) -> int:
    """Returns the positive whole number that an option was given."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number
