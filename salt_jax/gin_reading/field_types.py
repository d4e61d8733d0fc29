"""Numbers of the wrong kind in values that gin builds: counts that are no integers."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any


def check(value: Any) -> None:
    """Checks that every field declared as an integer or a number holds one.

    Args:
      value: A dataclass; those in its fields are checked too.

    Raises:
      ValueError: a field holds something else, such as 1e3 for a number of steps.
    """
    for place, kind, found in _wrong(value, type(value).__name__):
        what = "an integer" if kind is int else "a number"
        said = f"{place} must be {what}, got {found!r}."
        if kind is int and isinstance(found, float) and found.is_integer():
            said = f"{said[:-1]}: write {int(found)}."
        raise ValueError(said)


def _wrong(value: Any, place: str) -> Iterator[tuple[str, type, Any]]:
    """Yields the place, the declared type and the value of each wrong field."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _wrong(item, f"{place}[{index}]")
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return
    declared = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        at = f"{type(value).__name__}.{field.name}"
        kinds = _kinds(declared[field.name])
        yield from _wrong_number(held, kinds, at)
        yield from _wrong(held, at)


def _wrong_number(
    held: Any, kinds: frozenset[Any], at: str
) -> Iterator[tuple[str, type, Any]]:
    if kinds <= {int, type(None)} and int in kinds:
        if type(held) not in kinds:
            yield at, int, held
    elif kinds <= {float, int, type(None)} and float in kinds:
        if type(held) not in kinds | {int}:
            yield at, float, held
    elif Sequence[int] in kinds:
        items = held if isinstance(held, (list, tuple)) else [held]
        yield from ((at, int, item) for item in items if type(item) is not int)


def _kinds(declared: Any) -> frozenset[Any]:
    """Returns the members of a union, or the type itself."""
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        return frozenset(typing.get_args(declared))
    return frozenset([declared])
