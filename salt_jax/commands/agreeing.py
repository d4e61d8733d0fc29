"""What several processes may be told by their command lines."""

from __future__ import annotations

import os
import platform
from typing import Any

# They write, and have no --distributed.
ONE_PROCESS = ("vocabulary", "prepare", "select", "import", "report", "compare")


def check_alone(module: str) -> None:
    """Checks that no launcher has started a command of one process several times.

    Args:
      module: The name of the command's module.

    Raises:
      ValueError: it has.
    """
    command = module.rpartition(".")[2].rstrip("_")
    if command not in ONE_PROCESS:
        return
    from salt_jax.processes import launchers

    try:
        found = launchers.launched(os.environ)
    except ValueError:
        return  # Not of this command's concern: it joins nobody.
    if found is not None and found.count > 1:
        raise ValueError(
            f"{command} works in one process, and {found.kind} started {found.count} "
            f"({found.index} is this one): start it once, for example with srun -n 1."
        )


def agree(command: str, options: Any, job: Any = None) -> None:
    """Compares what this process was told to do with the others, if there are any.

    Args:
      command: The name of the command.
      options: Its options.
      job: What its gin files bind, if it has any.

    Raises:
      ValueError: the processes differ; on every process.
    """
    if getattr(options, "distributed", None) is None:
        return
    from salt_jax.config import as_json
    from salt_jax.processes import job as agreed
    from salt_jax.telemetry import versions

    ignored = {"distributed"}
    if job is not None:  # Which says what the gin options came to.
        ignored |= {"gin_file", "gin_bindings", "gin_import"}
    told = {k: v for k, v in vars(options).items() if k not in ignored}
    agreed.agree(
        {"command": command, "options": told, "code": versions.of_code()}
        | {"versions": versions.of_packages() | {"python": platform.python_version()}}
        | (as_json(job) if job is not None else {})
    )
