"""What processes of one job are told by their command lines, compared."""

from __future__ import annotations

import platform
from typing import Any


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
