"""The differences between two JSON values."""

from __future__ import annotations

from typing import Any


def changed_fields(before: Any, after: Any, name: str = "") -> list[str]:
    """Returns the dotted names at which two JSON values differ."""
    if isinstance(before, list) and isinstance(after, list):
        before = dict(enumerate(before))
        after = dict(enumerate(after))
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [name]
    changed: list[str] = []
    for key in {**before, **after}:
        inner = f"{name}.{key}" if name else str(key)
        changed += changed_fields(before.get(key), after.get(key), inner)
    return changed
