"""What a command writes: kept from other jobs, and recorded with its command line."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from etils import epath

from salt_jax.files.lock import alone_at


def command_line(command: str, options: Any) -> str:
    """Returns a command line that gives a command its options.

    Args:
      command: Its name.
      options: A dataclass whose fields are named as the flags.
    """
    words = ["salt_jax", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        if field.name == "gin_bindings":
            words += [f"--gin.{binding}" for binding in value]
        elif value is True:
            words.append(f"--{field.name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name}={each}" for each in values]
    return shlex.join(words)


def record(directory: epath.PathLike, command: str, options: Any) -> None:
    """Records a command that has ended in the directory it wrote; in one process."""
    from salt_jax.telemetry.recorded_commands import record_command

    if not _is_first():
        return
    record_command(directory, command_line(command, options))


@contextlib.contextmanager
def alone_writing(output: epath.PathLike) -> Iterator[None]:
    """Keeps other jobs from writing `output`; process 0 holds the lock for its job.

    Raises:
      LockedError: another job writes it.
    """
    with alone_at(output) if _is_first() else contextlib.nullcontext():
        yield


def _is_first() -> bool:
    """Returns whether this is process 0 of its job, or in none; starts no device."""
    from salt_jax.processes import job

    return job.index() == 0
