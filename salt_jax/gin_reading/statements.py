"""Bindings and references in gin text, and the bindings that have no effect.

Gin accepts any scope and any macro name, so it never reads a misspelled one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TextIO

from gin import config_parser

from salt_jax.gin_reading import files

_REQUIRED = "%gin.REQUIRED"


@dataclasses.dataclass
class Statements:
    """The statements of one or more gin texts."""

    bindings: dict[str, str]  # "scope/module.Class.field" or macro, to its place.
    references: set[str]  # Scopes and macros that values name.
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
    """Keeps references as text, and records the scopes and macros they name."""

    def __init__(self):
        self.references: set[str] = set()

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> str:
        self.references.add(scoped_name.rpartition("/")[0])
        return f"@{scoped_name}"

    def macro(self, scoped_name: str) -> str:
        self.references.add(scoped_name)
        return f"%{scoped_name}"


def read(text: str | TextIO) -> Statements:
    """Returns the statements of a text, without changing gin's state.

    Raises:
      SyntaxError: the text is not gin text.
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

    Every override must have been read. A binding in a file may be unread if another
    choice would read it: it has no scope, or its scope or macro is named somewhere.
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


def shadowed(
    of_files: Statements, of_overrides: Statements, operative: Statements
) -> dict[str, tuple[str, bool]]:
    """Returns the overrides that a binding of a narrower scope keeps from some uses.

    Maps each to that binding, with its place, and to whether it wins in all uses.
    """
    everything = of_files.bindings | of_overrides.bindings
    found = {}
    for name in of_overrides.bindings:
        winners = {
            _winner(use, everything)
            for use in operative.bindings
            if "." in name and _is_read(name, [use])
        }
        if others := sorted(winners - {name, None}, key=str):
            place = f"{others[0]}{everything[str(others[0])]}"
            found[name] = (place, name not in winners)
    return found


def _winner(use: str, bindings: Iterable[str]) -> str | None:
    """Returns the binding that gin takes for a use: that of the narrowest scope."""
    reaching = [name for name in bindings if _is_read(name, [use])]
    return max(reaching, key=lambda name: name.count("/"), default=None)


def _is_alternative(name: str, named: set[str]) -> bool:
    scope, _, target = name.rpartition("/")
    if "." not in target:
        return name in named
    return not scope or any(f"{x}/".startswith(f"{scope}/") for x in named)


def _is_read(name: str, used: Sequence[str]) -> bool:
    """Returns whether `used` has a binding, itself or in a narrower scope."""
    *scope, target = name.split("/")
    for other in used:
        *other_scope, other_target = other.split("/")
        if short(other_target) == short(target) and other_scope[: len(scope)] == scope:
            return True
    return False


def short(target: str) -> str:
    """Returns "Class.field" of "module.Class.field", and a macro name unchanged."""
    return ".".join(target.split(".")[-2:])
