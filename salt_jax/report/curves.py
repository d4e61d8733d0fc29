"""Loss curves of training runs, and their comparison at equal budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from salt_jax.transition.decision import decisions_in

# Maps step numbers to seconds of training, at measured step times.
Clock = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LossCurve:
    """The loss of a run against steps, FLOPs and seconds.

    The arrays are float64 of one length, at least 1. `seconds` is steps times measured
    step time, None if step times were not measured.
    """

    steps: np.ndarray
    flops: np.ndarray
    losses: np.ndarray
    seconds: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        records: Sequence[Mapping[str, Any]],
        key: str = "val_loss",
        clock: Clock | None = None,
    ) -> LossCurve:
        """Returns the curve of the loss `key` in a run's metric records.

        Raises:
          ValueError: no record has that loss.
        """
        points = [record for record in records if key in record]
        if not points:
            raise ValueError(
                f"None of {len(records)} metric records has a {key!r}: the comparison "
                "needs one validation or more, so train until the first."
            )
        names = ("step", "flops", key)
        steps, flops, losses = (
            np.array([point[name] for point in points], float) for name in names
        )
        seconds = None if clock is None else clock(steps)
        return cls(steps=steps, flops=flops, losses=losses, seconds=seconds)

    def spent(self, what: str) -> np.ndarray:
        """Returns the "steps", "flops" or "seconds" of each point.

        Raises:
          ValueError: step times were not measured.
        """
        values = getattr(self, what)
        if values is None:
            raise ValueError(
                "Step times were not measured: see the command time_steps."
            )
        return values

    def describe(self) -> dict[str, Any]:
        """Returns the points as JSON types."""
        fields = dataclasses.asdict(self).items()
        return {name: x if x is None else x.tolist() for name, x in fields}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassingPoint:
    """The point where a run first reaches another run's final held-out loss.

    The shares are of the other run's total. Seconds are None if step times were not
    measured.
    """

    steps: float
    flops: float
    share_of_steps: float
    share_of_flops: float
    seconds: float | None = None
    share_of_seconds: float | None = None


def passing_point(salt: LossCurve, baseline: LossCurve) -> PassingPoint | None:
    """Returns the point where `salt` first reaches the final loss of `baseline`.

    None if it never does. The loss is interpolated linearly between validations; a run
    that is below the target at its first validation reaches it there.
    """
    target = baseline.losses[-1]
    reached = np.flatnonzero(salt.losses <= target)
    if not reached.size:
        return None
    after = reached[0]
    before = max(after - 1, 0)
    fall = salt.losses[before] - salt.losses[after]
    part = (salt.losses[before] - target) / fall if after else 1.0
    fields: dict[str, Any] = {}
    for name in ("steps", "flops", "seconds"):
        values, total = getattr(salt, name), getattr(baseline, name)
        if values is not None and total is not None:
            at = values[before] + part * (values[after] - values[before])
            fields |= {name: float(at), f"share_of_{name}": float(at / total[-1])}
    return PassingPoint(**fields)


def loss_at(curve: LossCurve, what: str, amount: float) -> float | None:
    """Returns the loss at a budget, interpolated linearly between validations.

    None before the first validation; the last loss after the last one.

    Args:
      curve: Held-out losses.
      what: The unit of the budget: "steps", "flops" or "seconds".
      amount: The budget.
    """
    spent = curve.spent(what)
    if amount < spent[0]:
        return None
    return float(np.interp(amount, spent, curve.losses))


def transition_step(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the step at which the first stage ended, None if there is one stage.

    It is the step at which a leave rule ended it, else the last recorded one.
    """
    staged = [record for record in records if "stage" in record]
    if staged and (left := decisions_in(records).get(staged[0]["stage"])):
        return left.step
    first = [record for record in staged if record["stage"] == staged[0]["stage"]]
    return None if len(first) == len(staged) else int(first[-1]["step"])


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the trailing moving mean over up to `window` values."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)
