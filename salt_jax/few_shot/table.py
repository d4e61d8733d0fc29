"""The table of results: one row per task and metric, one column per model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from salt_jax.few_shot.metrics import Estimate, Metric, group_means

_WORDS = ("task", "metric", "part")
_NUMBERS = ("examples", "shots", "chance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The values of one metric of a task or group, for all models."""

    name: str  # The task or the group.
    metric: str
    part: str = ""  # "easy", "medium" or "hard"; "": all examples.
    examples: int | None = None
    shots: int | None = None
    chance: float | None = None
    is_share: bool = True
    marks: Mapping[str, Estimate]  # By the model's name.

    def as_json(self) -> dict[str, Any]:
        """Returns the row as a JSON value, with proportions from 0 to 1."""
        return dataclasses.asdict(self)


def rows(
    measured: Sequence[Metric],
    groups: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """Returns a row for each metric, and then one for the mean of each group.

    Logs the tasks because of which a group has no mean.

    Args:
      measured: The metrics.
      groups: lm-eval's groups, by name.
      results: lm-eval's results, by the model's name.
    """
    about = next(iter(results.values()))
    found = [
        Row(
            name=measure.task,
            metric=measure.metric,
            examples=about["n-samples"][measure.task]["effective"],
            shots=about["n-shot"][measure.task],
            chance=measure.chance,
            is_share=measure.is_share,
            marks={name: measure.mark(said) for name, said in results.items()},
        )
        for measure in measured
    ]
    first = [measure for measure in measured if measure.is_first and measure.is_share]
    names = {(measure.task, measure.metric) for measure in first}
    counted = [row for row in found if (row.name, row.metric) in names]
    means = mean_rows(counted, groups)
    has_mean = {row.name for row in means}
    for group in (name for name in groups if name not in has_mean):
        lacking = _tasks_of(group, groups) - {row.name for row in counted}
        logging.warning(
            "The group %s has no mean: the primary metric of %s is not a proportion.",
            group,
            ", ".join(sorted(lacking)),
        )
    return found + means


def _tasks_of(name: str, groups: Mapping[str, Any]) -> set[str]:
    if name not in groups:
        return {name}
    children = [_tasks_of(child, groups) for child in groups[name].child_names]
    return set().union(*children)


def mean_rows(of_tasks: Sequence[Row], groups: Mapping[str, Any]) -> list[Row]:
    """Returns a row for the mean of each group, given one row per task."""
    models = of_tasks[0].marks if of_tasks else ()
    means = {
        model: group_means(groups, {row.name: row.marks[model] for row in of_tasks})
        for model in models
    }
    chances = group_means(
        groups,
        {
            row.name: Estimate(row.chance, None)
            for row in of_tasks
            if row.chance is not None
        },
    )
    return [
        Row(
            name=group,
            metric="mean",
            part=of_tasks[0].part,
            chance=chances[group].value if group in chances else None,
            marks={model: means[model][group] for model in models},
        )
        for group in groups
        if all(group in means[model] for model in models) and models
    ]


def render(found: Sequence[Row]) -> str:
    """Returns rows as a text table, each value with its standard error.

    Proportions are in percent; other values have four digits. Empty columns are left
    out.
    """
    models = list(found[0].marks)
    lines = [[*_WORDS, *_NUMBERS, *models]]
    for row in found:
        chance = "" if row.chance is None else f"{100 * row.chance:.1f}"
        numbers = [_or_blank(row.examples), _or_blank(row.shots), chance]
        marks = [_shown(row.marks[model], row.is_share) for model in models]
        lines.append([row.name, row.metric, row.part, *numbers, *marks])
    columns = []
    for place, column in enumerate(zip(*lines, strict=True)):
        if any(column[1:]):
            width = max(map(len, column))
            is_word = place < len(_WORDS)
            pad = str.ljust if is_word else str.rjust
            columns.append([pad(cell, width) for cell in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _or_blank(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _shown(mark: Estimate, is_share: bool) -> str:
    def shown(number: float) -> str:
        return f"{100 * number:.1f}" if is_share else f"{number:.4g}"

    value = shown(mark.value)
    return value if mark.stderr is None else f"{value} +- {shown(mark.stderr)}"
