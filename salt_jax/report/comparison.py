"""Two training runs set against each other, in numbers.

Points: one per validation of a run, in order. Nothing here reads a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ValidationCurve:
    """The held-out loss of a run, and what had been spent at each point.

    The arrays are float64 of one length, at least 1. `seconds` is time spent in
    training, which interruptions do not add to.
    """

    steps: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> ValidationCurve:
        """Returns the curve of a run's metric records.

        Raises:
          ValueError: no record has a "val_loss".
        """
        points = [record for record in records if "val_loss" in record]
        if not points:
            raise ValueError(
                f"None of {len(records)} metric records has a 'val_loss': a run is "
                "compared by its validations, so let it reach at least one."
            )
        names = ("step", "flops", "seconds", "val_loss")
        columns = (np.array([point[name] for point in points], float) for name in names)
        steps, flops, seconds, losses = columns
        return cls(steps=steps, flops=flops, seconds=seconds, losses=losses)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassingPoint:
    """Where a run first has another run's final held-out loss.

    The shares are of what the other run spent from its beginning to its end.
    """

    steps: float
    flops: float
    seconds: float
    share_of_steps: float
    share_of_flops: float
    share_of_seconds: float


def passing_point(
    salt: ValidationCurve, baseline: ValidationCurve
) -> PassingPoint | None:
    """Returns where `salt` first reaches the final loss of `baseline`, or None.

    Between two validations the loss is taken to be a straight line. Before the
    first one nothing is known, so a run that has passed by then passes there.
    """
    target = baseline.losses[-1]
    reached = np.flatnonzero(salt.losses <= target)
    if not reached.size:
        return None
    after = reached[0]
    before = max(after - 1, 0)
    fall = salt.losses[before] - salt.losses[after]
    part = (salt.losses[before] - target) / fall if after else 1.0

    def between(values: np.ndarray) -> float:
        return float(values[before] + part * (values[after] - values[before]))

    steps, flops, seconds = map(between, (salt.steps, salt.flops, salt.seconds))
    return PassingPoint(
        steps=steps,
        flops=flops,
        seconds=seconds,
        share_of_steps=steps / float(baseline.steps[-1]),
        share_of_flops=flops / float(baseline.flops[-1]),
        share_of_seconds=seconds / float(baseline.seconds[-1]),
    )


def loss_at_flops(curve: ValidationCurve, flops: float) -> float | None:
    """Returns the held-out loss when `flops` had been spent, or None if unknown.

    It is unknown before the first validation; after the last one it is the last.
    """
    if flops < curve.flops[0]:
        return None
    return float(np.interp(flops, curve.flops, curve.losses))


def transition_step(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the last recorded step of the first stage, or None if there is one."""
    staged = [record for record in records if "stage" in record]
    first = [record for record in staged if record["stage"] == staged[0]["stage"]]
    return None if len(first) == len(staged) else int(first[-1]["step"])


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean over each value and up to `window` - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)
