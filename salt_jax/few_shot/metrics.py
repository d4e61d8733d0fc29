"""What tasks are judged by, and the means of groups of tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.few_shot.known_tasks import KNOWN, NOTHING

# The metrics of lm-eval, and ours, that are shares from 0 to 1.
SHARES = {"acc", "acc_bytes", "acc_norm", "em", "exact_match", "f1", "pass_at_1"}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number that a model has been given."""

    value: float
    stderr: float | None  # None if it is not known.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that a task gives to a model."""

    task: str
    metric: str
    is_share: bool  # From 0 to 1, shown in percent; means are made of these only.
    is_first: bool  # The one of its task that means are made of.
    chance: float | None = None  # What guessing gives.
    factor: float = 1.0  # What makes a share of what lm-eval gives.

    def mark(self, results: Mapping[str, Any]) -> Estimate:
        """Returns what lm-eval's results of a model say."""
        numbers = results["results"][self.task]
        filters = [
            name.partition(",")[2]
            for name in numbers
            if name.partition(",")[0] == self.metric
        ]
        value = numbers[f"{self.metric},{filters[0]}"]
        stderr = numbers.get(f"{self.metric}_stderr,{filters[0]}")
        is_known = isinstance(stderr, int | float) and math.isfinite(stderr)
        return Estimate(
            float(value) * self.factor,
            float(stderr) * self.factor if is_known else None,
        )


def task_metrics(tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> list[Metric]:
    """Returns the measures of each of lm-eval's tasks, the first of a task first.

    A group's file may say under `metric` which one of a task counts, and is then the
    only one; a task's file says its `chance`, and of lm-eval's own we know it.
    """
    found = []
    named = [(group.metadata or {}).get("metric", {}) for group in groups.values()]
    for name, task in tasks.items():
        own = task.get_config("metadata") if hasattr(task, "get_config") else None
        known = KNOWN.get(name, NOTHING)
        chance = (own or {}).get("chance", known.chance)
        metrics = [x[name] for x in named if name in x] or list(task.aggregation())
        for metric in metrics:
            is_percent = metric in known.percent
            is_share = is_percent or metric in SHARES
            found.append(
                Metric(
                    task=name,
                    metric=metric,
                    is_share=is_share,
                    is_first=metric == metrics[0],
                    chance=chance if is_share else None,
                    factor=0.01 if is_percent else 1.0,
                )
            )
    return found


def group_means(
    groups: Mapping[str, Any], marks: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """Returns the mean of each group over its tasks and groups, all counting alike.

    Args:
      groups: lm-eval's groups, by name.
      marks: The mark of each task that has a share.

    Returns:
      By name; a group of which something has no mark is left out.
    """
    means: dict[str, Estimate] = {}

    def of(name: str) -> Estimate | None:
        if name not in groups:
            return marks.get(name)
        parts = [of(child) for child in groups[name].child_names]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        means[name] = mean(known)
        return means[name]

    for name in groups:
        of(name)
    return {name: means[name] for name in groups if name in means}


def mean(marks: Sequence[Estimate]) -> Estimate:
    """Returns the mean of independent marks, all counting alike."""
    value = sum(mark.value for mark in marks) / len(marks)
    stderrs = [mark.stderr for mark in marks if mark.stderr is not None]
    if len(stderrs) < len(marks):
        return Estimate(value, None)
    return Estimate(value, math.sqrt(sum(x**2 for x in stderrs)) / len(marks))


def sample_mean(values: Sequence[float]) -> Estimate:
    """Returns the mean of the marks of single examples."""
    value, count = sum(values) / len(values), len(values)
    if count < 2:
        return Estimate(value, None)
    spread = sum((x - value) ** 2 for x in values) / (count - 1)
    return Estimate(value, math.sqrt(spread / count))
