"""The facts that describe a laboratory to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Facts = Sequence[tuple[str, Any]]


def lab_sections(of: Mapping[str, Any]) -> Iterator[tuple[str, Facts]]:
    """Yields titles and facts, names and JSON, that show a laboratory.

    Args:
      of: The laboratory as JSON types.
    """
    facts = [(name, of[name]) for name in ("root", "seeds", "reference")]
    facts += [("measures", each) for each in of["measures"]]
    yield of["name"], [*facts, ("step times", of["step_times"])]
    made = {
        "Arms": of["arms"],
        "Small models": of["small_models"],
        "Scores": of["scores"],
        "Corpus": [{"name": "prepare"} | of["preparation"]]
        if of["preparation"]
        else [],
    }
    for title, entries in made.items():
        if entries:
            yield (
                title,
                [
                    (each["name"], " ".join([*each["gin_files"], *each["bindings"]]))
                    for each in entries
                ],
            )
