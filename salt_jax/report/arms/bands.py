"""Curves of arms over seeds: the mean at each step, with a 95 % interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.curves import smooth
from salt_jax.report.intervals import t_interval

Series = tuple[np.ndarray, np.ndarray]  # Steps and values.
_POINTS = 60  # Of a training metric: what a figure of a few inches shows.

# Metrics that are drawn against steps: names, titles and what they say.
METRICS = {
    "kl": "KL(teacher || student) on training text, nats per token",
    "agreement": "targets at which teacher and student agree, share",
    "distilled": "targets that are distilled, share",
    "kd_weight": "weight of distillation",
    "grad_norm": "norm of the gradient",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
    """Means over seeds at some steps. Intervals are None for a single seed."""

    count: int
    steps: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None

    def describe(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return dataclasses.asdict(self)


def band(series: Sequence[Series]) -> Band | None:
    """Returns the mean of curves at the steps that all of them have.

    None without such a step.
    """
    shared = sorted(
        set.intersection(*(set(s.tolist()) for s, _ in series)) if series else ()
    )
    if not shared:
        return None
    at = np.array(shared)
    values = np.sort([v[np.searchsorted(s, at)] for s, v in series], axis=0)
    intervals = [t_interval(column) for column in values.T]
    known = [each for each in intervals if each is not None]
    return Band(
        count=len(series),
        steps=shared,
        mean=values.mean(axis=0).tolist(),
        low=[low for low, _ in known] or None,
        high=[high for _, high in known] or None,
    )


def loss_difference(lab: Laboratory, name: str) -> Band | None:
    """Returns the held-out loss of an arm minus the reference's of the same seed.

    The reference is linear between its validations, and is not known after its last.
    """
    series = []
    for seed in lab.pairs(name, lab.file.seeds):
        arm, reference = (
            lab.runs[each, seed].curve for each in (name, lab.file.reference)
        )
        inside = (arm.steps >= reference.steps[0]) & (arm.steps <= reference.steps[-1])
        steps = arm.steps[inside]
        other = np.interp(steps, reference.steps, reference.losses)
        series.append((steps, arm.losses[inside] - other))
    return band(series)


def held_out_loss(lab: Laboratory, name: str) -> Band | None:
    """Returns the held-out loss of the finished runs of an arm."""
    curves = [lab.runs[name, seed].curve for seed in lab.finished(name)]
    return band([(curve.steps, curve.losses) for curve in curves])


def few_shot(lab: Laboratory, name: str) -> Band | None:
    """Returns the average over few-shot tasks of an arm, against steps."""
    series = []
    for seed in lab.file.seeds:
        found = lab.runs[name, seed].few_shot
        if found:
            series.append((np.array([*found], float), np.array([*found.values()])))
    return band(series)


def metric(lab: Laboratory, name: str, key: str) -> Band | None:
    """Returns a training metric of an arm, smoothed; None if a run does not have it."""
    series = []
    for seed in lab.finished(name):
        trained = lab.runs[name, seed].trained
        assert trained is not None
        points = [r for r in trained.records if np.isfinite(r.get(key, np.nan))]
        if not points:
            return None
        steps = np.array([point["step"] for point in points], float)
        values = np.array([point[key] for point in points], float)
        window = max(1, len(values) // 20)
        every = -(-len(values) // _POINTS)
        kept = slice(len(values) - 1, None, -every)  # The last one is kept.
        series.append((steps[kept][::-1], smooth(values, window)[kept][::-1]))
    return band(series)
