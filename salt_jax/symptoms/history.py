"""The records of a run so far, by stage and name."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A stage as planned."""

    name: str
    begin_step: int
    end_step: int  # The latest end.
    data: str  # Says what it reads: the same text for the same data.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The held-out losses of another run."""

    steps: Sequence[int]  # Increasing.
    losses: Sequence[float]

    def at(self, step: int) -> float | None:
        """Returns the loss at `step`, linear in between; None beyond the curve."""
        if not self.steps or not self.steps[0] <= step <= self.steps[-1]:
            return None
        return float(np.interp(step, self.steps, self.losses))


@dataclasses.dataclass(frozen=True)
class Series:
    """The values of one metric in one stage, in order of steps."""

    steps: np.ndarray  # int64 [N]
    values: np.ndarray  # float64 [N]

    def __len__(self) -> int:
        return len(self.values)

    def noise(self) -> float:
        """Returns the standard deviation of a value around a smooth trend.

        From second differences, to which a straight line adds nothing: their variance
        is 1 + 4 + 1 times that of a value.
        """
        if len(self) < 3:
            return math.inf
        return float(np.sqrt(np.mean(np.square(np.diff(self.values, n=2))) / 6.0))

    def thirds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values of the first and of the last third."""
        count = max(len(self) // 3, 1)
        return self.values[:count], self.values[-count:]


class History:
    """What the records of a run say, stage by stage. Detectors only read it."""

    def __init__(self, stages: Sequence[Span], baseline: Curve | None = None):
        self.stages, self.baseline = stages, baseline
        self.index, self.step = 0, 0  # Of the stage of the newest record, and its step.
        self._values: dict[tuple[int, str], tuple[list[int], list[float]]] = (
            collections.defaultdict(lambda: ([], []))
        )

    @property
    def stage(self) -> Span:
        """The stage of the newest record."""
        return self.stages[self.index]

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a record of metrics.jsonl.

        One of a validation is of the stage of the records before it.
        """
        self.step = int(record["step"])
        planned = bisect.bisect_left([s.end_step for s in self.stages], self.step)
        names = [stage.name for stage in self.stages]
        if record.get("stage") in names:
            self.index = names.index(record["stage"])
        else:
            self.index = min(max(self.index, planned), len(names) - 1)
        for name, value in record.items():
            if isinstance(value, float) and math.isfinite(value):
                steps, values = self._values[self.index, name]
                steps.append(self.step)
                values.append(value)

    def series(self, name: str, *, back: int = 0) -> Series:
        """Returns a metric in the newest stage, or in the one `back` stages before."""
        steps, values = self._values.get((self.index - back, name), ([], []))
        return Series(np.array(steps, np.int64), np.array(values, np.float64))

    def count(self) -> int:
        """Returns the number of training records of the newest stage."""
        return len(self._values.get((self.index, "loss"), ([], []))[0])

    def progress(self) -> float:
        """Returns the share of the newest stage that is made, if it ends as planned."""
        stage = self.stage
        length = max(stage.end_step - stage.begin_step, 1)
        return (self.step - stage.begin_step) / length
