"""The command lines that wrote into a directory, in a file of that directory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

from etils import epath

from salt_jax.files.records import read_record, write_record

COMMANDS_FILE = "commands.json"
_REMEDY = "remove it; reports then lack its commands"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command:
    command: str
    ended_at: float  # Unix time.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Commands:
    commands: Sequence[_Command]


def record_command(directory: epath.PathLike, line: str) -> None:
    """Adds a command line that has just ended to those of a directory."""
    path = epath.Path(directory) / COMMANDS_FILE
    ended = [*_read(path), _Command(command=line, ended_at=time.time())]
    write_record(path, dataclasses.asdict(_Commands(commands=ended)))


def read_commands(directories: Iterable[epath.PathLike]) -> list[str]:
    """Returns the distinct command lines of some directories, the earliest first.

    A command that ran again stands where it ended last. A directory without records
    has a comment in their place, before all others.

    Raises:
      ValueError: a file of records is damaged.
    """
    ended: dict[str, float] = {}
    for directory in directories:
        path = epath.Path(directory) / COMMANDS_FILE
        if not path.exists():
            ended[f"# {directory}: no command was recorded."] = 0.0
            continue
        for each in _read(path):
            ended[each.command] = max(each.ended_at, ended.get(each.command, 0.0))
    return sorted(ended, key=ended.__getitem__)


def with_commands(directories: Iterable[epath.PathLike]) -> list[epath.PathLike]:
    """Returns the directories that have records."""
    return [x for x in directories if (epath.Path(x) / COMMANDS_FILE).exists()]


def _read(path: epath.Path) -> Sequence[_Command]:
    if not path.exists():
        return ()
    return read_record(path, _Commands, remedy=_REMEDY).commands
