"""Facts as text for people: numbers, values, sections and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def amount(number: float) -> str:
    """Returns a count for people: 2_823_000_000 is 2.823B."""
    for size, unit in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:,.0f}"


def mesh_text(mesh: Mapping[str, Any]) -> str:
    """Returns the sizes of the mesh axes, and whether they fit the devices here."""
    sizes = " x ".join(
        f"{name}={'the rest' if size is None else size}"
        for name, size in mesh["axes"].items()
    )
    fits = "fits" if mesh["fills_devices_here"] else "does not fit"
    return f"{sizes} ({fits} the number of devices here, {mesh['devices_here']})"


def facts_of(name: str, value: Any) -> list[tuple[str, str]]:
    """Returns facts that show a config's JSON, one field a line."""
    if not isinstance(value, Mapping):
        return [(name, value_text(value))]
    indent = " " * (len(name) - len(name.lstrip()) + 2)
    return [
        (name, str(value.get("type", ""))),
        *(
            (indent + field, value_text(inner))
            for field, inner in value.items()
            if field != "type" and inner is not None
        ),
    ]


def value_text(value: Any) -> str:
    """Returns a config's JSON as `Type(field=value, ...)`, less what is None."""
    if isinstance(value, Mapping):
        inner = ", ".join(
            f"{name}={value_text(field)}"
            for name, field in value.items()
            if name != "type" and field is not None
        )
        return f"{value.get('type', '')}({inner})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    return value if isinstance(value, str) else str(value)


def section(title: str, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields the lines of a title and of facts, one a line, their texts aligned."""
    width = max(len(name) for name, _ in facts)
    yield f"\n{title}"
    for name, text in facts:
        yield f"  {name:<{width}}  {text}"


def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Yields the lines of a title and a table, the first column aligned to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    yield f"\n{title}"
    for row in (head, *rows):
        first, *others = (
            f"{cell:{'<' if i == 0 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join((first, *others)).rstrip()
