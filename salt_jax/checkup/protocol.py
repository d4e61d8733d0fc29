"""What a checking process writes for the one that started it: a file for each check.

Each line of it is a sealed record, so that what a killed process left can be read.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from salt_jax.checkup.values import Line
from salt_jax.files import records
from salt_jax.files.appending import append
from salt_jax.files.writing import write_file

_REMEDY = "run the check again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heard:
    """What a check has written so far."""

    has_begun: bool = False
    lines: tuple[Line, ...] = ()
    has_ended: bool = False
    error: str | None = None


def file_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of the check called `name`."""
    return folder / "checks" / f"{name}.jsonl"


class Said:
    """Writes the file of one check."""

    def __init__(self, folder: pathlib.Path, name: str):
        """Begins the file."""
        self._path = file_of(folder, name)
        write_file(self._path, records.record_line({"event": "begun"}))

    def line(self, line: Line) -> None:
        """Adds what was measured."""
        self._add({"event": "line", "line": dataclasses.asdict(line)})

    def ended(self, error: str | None) -> None:
        """Adds the end: with `error` if the check could not finish."""
        self._add({"event": "ended", "error": error})

    def _add(self, fields: dict[str, Any]) -> None:
        append(self._path, records.record_line(fields).encode())


def heard(folder: pathlib.Path, name: str) -> Heard:
    """Returns what the check called `name` has written so far."""
    path = file_of(folder, name)
    if not path.exists():
        return Heard()
    events = records.read_lines(path, dict[str, Any], remedy=_REMEDY)
    lines = [
        records.typed(event["line"], Line, where=str(path), remedy=_REMEDY)
        for event in events
        if event["event"] == "line"
    ]
    ends = [event for event in events if event["event"] == "ended"]
    return Heard(
        has_begun=bool(events),
        lines=tuple(lines),
        has_ended=bool(ends),
        error=ends[0]["error"] if ends else None,
    )
