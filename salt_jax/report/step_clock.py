"""What runs cost in time: their steps, at the step times that `time_steps` measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from salt_jax.report.runs import Run
from salt_jax.training.step_times import cost_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepClock:
    """Step times measured side by side, the plain update's first.

    The step time of an update is the plain one's median times the median ratio of both
    within a round, which a slow minute changes less than the update's own median.
    """

    described: Mapping[str, Any]  # The file as it was written.

    @classmethod
    def read(cls, path: epath.PathLike) -> StepClock:
        """Reads the JSON file of the command `time_steps`.

        Raises:
          FileNotFoundError: it is not there.
        """
        path = epath.Path(path)
        if not path.exists():
            raise FileNotFoundError(
                f"No {path}: the command time_steps writes it. Run that first, or "
                "leave out --step_times."
            )
        return cls(described=json.loads(path.read_text()))

    @property
    def updates(self) -> list[Mapping[str, Any]]:
        """Each update with its numbers."""
        return self.described["updates"]

    def has(self, run: Run) -> bool:
        """Returns whether every stage of a run was measured."""
        return all(self._find(run, stage) for stage in run.experiment["stages"])

    def seconds(self, run: Run, steps: np.ndarray) -> np.ndarray:
        """Returns the seconds of training up to each of `steps`, float64.

        Raises:
          ValueError: a stage of the run was not measured.
        """
        total = np.zeros(np.shape(steps))
        begin = 0
        for stage in run.experiment["stages"]:
            end = stage["end_step"]
            update = self._find(run, stage)
            if update is None:
                measured = [each["name"] for each in self.updates]
                raise ValueError(
                    f"The step times are of {measured}, and none is like stage "
                    f"{stage['name']!r} of {run.workdir}: time that experiment too, "
                    "or leave out --step_times."
                )
            total += self._step_seconds(update) * (np.clip(steps, begin, end) - begin)
            begin = end
        return total

    def flops_per_second(self, run: Run) -> float:
        """Returns the rate of the last stage of a run."""
        update = self._find(run, run.experiment["stages"][-1])
        assert update is not None, run.workdir
        return update["flops"] / self._step_seconds(update)

    def _step_seconds(self, update: Mapping[str, Any]) -> float:
        return self.updates[0]["median"] * update["ratio_to_plain"]["median"]

    def _find(self, run: Run, stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
        cost = cost_of(run.experiment, stage)
        same = [update for update in self.updates if update["cost"] == cost]
        return same[0] if same else None
