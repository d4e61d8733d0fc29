"""What processes of one job must have in common, and how they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MOST_NAMES = 5  # Of facts that differ, in a message.


def difference(told: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """Returns how the facts of other processes differ from those of process 0.

    Args:
      told: The facts of each process, nested, as JSON types.
      names: How to call each process.

    Returns:
      A sentence about the first process that differs; empty if all agree.
    """
    first = flat(told[0])
    different = {
        index: changed
        for index in sorted(told)
        if (changed := _changed(first, flat(told[index])))
    }
    if not different:
        return ""
    index, changed = next(iter(different.items()))
    there = flat(told[index])
    shown = changed[:_MOST_NAMES]
    more = len(changed) - len(shown)
    theirs = ", ".join(f"{name}={_text(there, name)}" for name in shown)
    ours = ", ".join(f"{name}={_text(first, name)}" for name in shown)
    rest = f", and {more} more differences" if more else ""
    others = f" {len(different) - 1} more differ." if len(different) > 1 else ""
    name = names[index][0].upper() + names[index][1:]
    return f"{name} has {theirs}; {names[0]} has {ours}{rest}.{others}"


def flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Returns nested facts by dotted name."""
    if isinstance(facts, (list, tuple)):
        facts = dict(enumerate(facts))
    if not isinstance(facts, Mapping) or not facts:
        return {name: facts}
    return {
        dotted: value
        for key, inner in facts.items()
        for dotted, value in flat(inner, f"{name}.{key}" if name else str(key)).items()
    }


def _changed(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = {**first, **other}
    return [x for x in names if _text(first, x) != _text(other, x)]


def _text(facts: Mapping[str, Any], name: str) -> str:
    return json.dumps(facts[name]) if name in facts else "nothing"
