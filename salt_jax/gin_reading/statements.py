"""What gin text binds and refers to; which of its bindings have no effect.

Gin accepts any scope and any macro name, so a misspelled one is just never read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TextIO

from gin import config_parser

from salt_jax.gin_reading import files

_REQUIRED = "%gin.REQUIRED"


@dataclasses.dataclass
class Statements:
    """What some texts say together."""

    bindings: dict[str, str]  # "scope/module.Class.field" or a macro, and its place.
    references: set[str]  # Scopes and macros that some value names.
    imports: list[str]
    required: set[str]  # Names that are still bound to %gin.REQUIRED.

    def __or__(self, later: Statements) -> Statements:
        return Statements(
            self.bindings | later.bindings,
            self.references | later.references,
            self.imports + later.imports,
            (self.required - later.bindings.keys()) | later.required,
        )


class _Values(config_parser.ParserDelegate):
    """Leaves references as text, and notes what they name."""

    def __init__(self):
        self.references: set[str] = set()

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> str:
        self.references.add(scoped_name.rpartition("/")[0])
        return f"@{scoped_name}"

    def macro(self, scoped_name: str) -> str:
        self.references.add(scoped_name)
        return f"%{scoped_name}"


def read(text: str | TextIO) -> Statements:
    """Returns what a text says, without telling gin.

    Raises:
      SyntaxError: it is not gin text.
    """
    values = _Values()
    found = Statements({}, values.references, [], set())
    for statement in config_parser.ConfigParser(text, values):
        if isinstance(statement, config_parser.ImportStatement):
            if not statement.module.startswith("__gin__"):
                found.imports.append(statement.format())
        elif isinstance(statement, config_parser.BindingStatement):
            scope, selector, field, value, location = statement
            name = "/".join(filter(None, [scope, selector]))
            name = f"{name}.{field}" if field else name
            found.bindings[name] = _place(location)
            found.required.discard(name)
            if value == _REQUIRED:
                found.required.add(name)
    return found


def _place(location: config_parser.Location) -> str:
    if location.filename is None:
        return ""
    return f" ({files.shown(location.filename)}, line {location.line_num})"


def unread(
    of_files: Statements, of_overrides: Statements, operative: Statements
) -> list[str]:
    """Returns the bindings that nothing read, each with its place.

    An override must have been read. In a file, what another choice would read may
    stand idle: its scope or its macro is named somewhere, or it has neither.
    """
    used = list(operative.bindings)
    named = of_files.references | of_overrides.references
    idle = [name for name in of_overrides.bindings if not _is_read(name, used)]
    idle += [
        name + place
        for name, place in of_files.bindings.items()
        if name not in of_overrides.bindings
        and not _is_read(name, used)
        and not _is_alternative(name, named)
    ]
    return idle


def shadowed(of_files: Statements, of_overrides: Statements) -> dict[str, str]:
    """Returns new bindings of overrides, and for each one in a narrower scope."""
    everything = of_files | of_overrides
    return {
        name: other
        for name in of_overrides.bindings
        for other in everything.bindings
        if name not in of_files.bindings and name != other and _is_read(name, [other])
    }


def _is_alternative(name: str, named: set[str]) -> bool:
    scope, _, target = name.rpartition("/")
    if "." not in target:
        return name in named
    return not scope or any(f"{x}/".startswith(f"{scope}/") for x in named)


def _is_read(name: str, used: Sequence[str]) -> bool:
    """Returns whether a binding is among `used`, itself or in a narrower scope."""
    *scope, target = name.split("/")
    for other in used:
        *other_scope, other_target = other.split("/")
        if short(other_target) == short(target) and other_scope[: len(scope)] == scope:
            return True
    return False


def short(target: str) -> str:
    """Returns "Class.field" of "module.Class.field"; a macro's name as it is."""
    return ".".join(target.split(".")[-2:])
