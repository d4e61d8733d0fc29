"""The commands of a laboratory, and which of them needs which.

A node is an ordinary command, named after what it makes below the root, such as
"slm/seed-0/export". Exports are made because something names them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One command."""

    name: str
    argv: Sequence[str]  # The arguments of salt_jax.
    needs: Sequence[str] = ()  # Names of nodes.
    output: str | None = None  # What it makes; once that is removed, it runs again.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All commands of a laboratory, each after those that it needs."""

    nodes: Mapping[str, Node]
    # Of an entry with a seed: its folder, which an equal entry may share.
    folders: Mapping[tuple[str, int], str]
    step_times: Mapping[str, str]  # Files, by the name of an arm or a small model.

    def with_needs(self, names: Sequence[str]) -> list[str]:
        """Returns nodes and all that they need, directly or not, in order."""
        wanted = set(names)
        for node in reversed(list(self.nodes.values())):
            if node.name in wanted:
                wanted.update(node.needs)
        return [name for name in self.nodes if name in wanted]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How gin files are read, which is done in a layer above this one."""

    # What gin files, bindings and imports make.
    load: Callable[[Sequence[str], Sequence[str], Sequence[str]], Any]
    # What decides the step times of an experiment: of stages, and of a plain update.
    programs: Callable[[Any], tuple[frozenset[str], str]]


def argv_of(
    command: str,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    imports: Sequence[str] = (),
    options: Sequence[str] = (),
) -> tuple[str, ...]:
    """Returns the arguments of a command that reads gin files."""
    return (
        command,
        *(f"--gin_file={name}" for name in gin_files),
        *(f"--gin_import={name}" for name in imports),
        *options,
        *(f"--gin.{binding}" for binding in bindings),
    )
