"""Training time of runs, from the step times that `time_steps` measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from salt_jax.files.records import read_record, typed
from salt_jax.report.file_types import StepTimesFile
from salt_jax.report.runs import TrainedRun
from salt_jax.training.step_times import cost_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepClock:
    """Step times of updates that were measured in turns, the plain update first.

    The step time of an update is the plain update's median times the median ratio of
    the two within a round: it varies less with load than the update's own median.
    """

    described: Mapping[str, Any]  # The content of the file.

    @classmethod
    def read(cls, path: epath.PathLike) -> StepClock:
        """Reads the JSON file of the command `time_steps`.

        Raises:
          FileNotFoundError: the file is missing.
          ValueError: it is damaged, or has other fields.
        """
        path = epath.Path(path)
        if not path.exists():
            raise FileNotFoundError(
                f"No {path}: the command time_steps writes it. Run it first, or leave "
                "out --step_times."
            )
        remedy = "run time_steps again"
        described = read_record(path, dict[str, Any], remedy=remedy)
        typed(described, StepTimesFile, where=str(path), remedy=remedy)
        return cls(described=described)

    @classmethod
    def merged(cls, clocks: Sequence[StepClock]) -> StepClock:
        """Returns one clock of several that were each measured beside one plain update.

        The plain step time is that of the first; ratios to it are within each clock.

        Raises:
          ValueError: there are none, or their plain updates differ.
        """
        plain = [clock.updates[0]["cost"] for clock in clocks]
        if not plain or any(cost != plain[0] for cost in plain):
            raise ValueError(
                f"{len(plain)} files of step times have no plain update in common: "
                "measure all of them beside the same experiment."
            )
        updates = [update for clock in clocks for update in clock.updates]
        return cls(described=dict(clocks[0].described) | {"updates": updates})

    @property
    def updates(self) -> list[Mapping[str, Any]]:
        """The measurements of each update."""
        return self.described["updates"]

    def has(self, run: TrainedRun) -> bool:
        """Returns whether every stage of a run was measured."""
        return all(self._find(run, stage) for stage in run.experiment["stages"])

    def seconds(self, run: TrainedRun, steps: np.ndarray) -> np.ndarray:
        """Returns the training time up to each of `steps` [s], float64.

        Raises:
          ValueError: a stage of the run was not measured.
        """
        total = np.zeros(np.shape(steps))
        begin = 0
        for stage, end in zip(run.experiment["stages"], run.stage_ends, strict=True):
            update = self._find(run, stage)
            if update is None:
                measured = [each["name"] for each in self.updates]
                raise ValueError(
                    f"The step times are of {measured}; none matches stage "
                    f"{stage['name']!r} of {run.workdir}: time that experiment too, or "
                    "leave out --step_times."
                )
            total += self._step_seconds(update) * (np.clip(steps, begin, end) - begin)
            begin = end
        return total

    def flops_per_second(self, run: TrainedRun) -> float:
        """Returns the FLOPs per second of a run's last stage."""
        update = self._find(run, run.experiment["stages"][-1])
        assert update is not None, run.workdir
        return update["flops"] / self._step_seconds(update)

    def _step_seconds(self, update: Mapping[str, Any]) -> float:
        return self.updates[0]["median"] * update["ratio_to_plain"]["median"]

    def _find(
        self, run: TrainedRun, stage: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        cost = cost_of(run.experiment, stage)
        same = [update for update in self.updates if update["cost"] == cost]
        return same[0] if same else None
