"""The metrics of tasks, and the means of groups of tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.few_shot.known_tasks import KNOWN, NOTHING

# Metrics that are proportions, from 0 to 1.
SHARES = {"acc", "acc_bytes", "acc_norm", "em", "exact_match", "f1", "pass_at_1"}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The value of a metric with its standard error."""

    value: float
    stderr: float | None  # None if unknown.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a task."""

    task: str
    metric: str
    is_share: bool  # A proportion, shown in percent; only these enter group means.
    is_first: bool  # The primary metric of the task, which enters group means.
    chance: float | None = None  # The value that guessing gives.
    factor: float = 1.0  # Scales lm-eval's values, from percent to proportions.

    def mark(self, results: Mapping[str, Any]) -> Estimate:
        """Returns the value of this metric in lm-eval's results of a model."""
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
    """Returns the metrics of each task, the primary metric of a task first.

    A group's file may choose the single metric of a task under `metric`. A task's
    `chance` is in its file; `known_tasks` has it for lm-eval's own tasks.
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
    """Returns the unweighted mean of each group over its tasks and groups.

    Args:
      groups: lm-eval's groups, by name.
      marks: The estimate of each task whose primary metric is a proportion.

    Returns:
      The means by group, without groups that contain a task without an estimate.
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
    """Returns the unweighted mean of independent estimates."""
    value = sum(mark.value for mark in marks) / len(marks)
    stderrs = [mark.stderr for mark in marks if mark.stderr is not None]
    if len(stderrs) < len(marks):
        return Estimate(value, None)
    return Estimate(value, math.sqrt(sum(x**2 for x in stderrs)) / len(marks))


def sample_mean(values: Sequence[float]) -> Estimate:
    """Returns the mean over examples, with its standard error."""
    value, count = sum(values) / len(values), len(values)
    if count < 2:
        return Estimate(value, None)
    spread = sum((x - value) ** 2 for x in values) / (count - 1)
    return Estimate(value, math.sqrt(spread / count))
