"""The command lines that wrote into a directory, in a file of that directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from etils import epath

COMMANDS_FILE = "commands.jsonl"


def record_command(directory: epath.PathLike, line: str) -> None:
    """Adds a command line that has just ended to those of a directory."""
    path = epath.Path(directory) / COMMANDS_FILE
    earlier = path.read_text() if path.exists() else ""
    record = {"command": line, "ended_at": time.time()}
    path.write_text(f"{earlier}{json.dumps(record)}\n")


def read_commands(directories: Iterable[epath.PathLike]) -> list[str]:
    """Returns the distinct command lines of some directories, the earliest first.

    A command that ran again stands where it ended last. A directory without records
    has a comment in their place, before all others.
    """
    ended: dict[str, float] = {}
    for directory in directories:
        path = epath.Path(directory) / COMMANDS_FILE
        if not path.exists():
            ended[f"# {directory}: no command was recorded."] = 0.0
            continue
        for record in map(json.loads, path.read_text().splitlines()):
            line, end = record["command"], record["ended_at"]
            ended[line] = max(end, ended.get(line, 0.0))
    return sorted(ended, key=ended.__getitem__)


def with_commands(directories: Iterable[epath.PathLike]) -> list[epath.PathLike]:
    """Returns the directories that have records."""
    return [x for x in directories if (epath.Path(x) / COMMANDS_FILE).exists()]
