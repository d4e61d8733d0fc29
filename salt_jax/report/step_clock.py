"""Training time of runs, from the step times that `time_steps` measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from salt_jax.files.records import read_record, typed
from salt_jax.report.file_types import StepTimesFile
from salt_jax.report.runs import TrainedRun
from salt_jax.training.step_costs import cost_of, pieces_of


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
        """Returns one clock of several that have an update in common.

        Step times are relative to that update within each clock; its own is that of
        the first clock.

        Raises:
          ValueError: there are none, or they have no update in common.
        """
        anchors = [x["cost"] for x in clocks[0].updates] if clocks else []
        shared = [x for x in anchors if all(clock._of_cost(x) for clock in clocks)]
        if not shared:
            raise ValueError(
                f"{len(clocks)} files of step times have no update in common: measure "
                "all of them beside the same experiment."
            )
        updates = [x for clock in clocks for x in clock._relative_to(shared[0])]
        first = next(x for x in updates if x["cost"] == shared[0])
        described = dict(clocks[0].described) | {"updates": [first, *updates]}
        return cls(described=described)

    def _relative_to(self, cost: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the updates, with their ratios to the one of `cost`."""
        anchor = self._of_cost(cost)
        assert anchor is not None
        by = anchor["ratio_to_plain"]["median"]
        return [
            dict(update)
            | {
                "ratio_to_plain": {
                    "median": update["ratio_to_plain"]["median"] / by,
                    "quartiles": [
                        x / by for x in update["ratio_to_plain"]["quartiles"]
                    ],
                }
            }
            for update in self.updates
        ]

    @property
    def updates(self) -> list[Mapping[str, Any]]:
        """The measurements of each update."""
        return self.described["updates"]

    def has(self, run: TrainedRun) -> bool:
        """Returns whether every stage of a run was measured."""
        return all(update is not None for *_, update in self._pieces(run))

    def seconds(self, run: TrainedRun, steps: np.ndarray) -> np.ndarray:
        """Returns the training time up to each of `steps` [s], float64.

        Raises:
          ValueError: a stage of the run was not measured.
        """
        total = np.zeros(np.shape(steps))
        for stage, begin, end, update in self._pieces(run):
            if update is None:
                measured = [each["name"] for each in self.updates]
                raise ValueError(
                    f"The step times are of {measured}; none matches stage "
                    f"{stage['name']!r} of {run.workdir}: time that experiment too, or "
                    "leave out --step_times."
                )
            total += self._step_seconds(update) * (np.clip(steps, begin, end) - begin)
        return total

    def flops_per_second(self, run: TrainedRun) -> float:
        """Returns the FLOPs per second of a run's last step."""
        *_, (*_, update) = self._pieces(run)
        assert update is not None, run.workdir
        return update["flops"] / self._step_seconds(update)

    def _step_seconds(self, update: Mapping[str, Any]) -> float:
        return self.updates[0]["median"] * update["ratio_to_plain"]["median"]

    def _pieces(
        self, run: TrainedRun
    ) -> Iterator[tuple[Mapping[str, Any], int, int, Mapping[str, Any] | None]]:
        """Yields the stages by batch size, with the steps of each and its update."""
        experiment, begin = run.experiment, 0
        for stage, end in zip(experiment["stages"], run.stage_ends, strict=True):
            for first, last, rows in pieces_of(experiment, begin, end):
                found = self._of_cost(cost_of(experiment, stage, rows))
                yield stage, first, last, found
            begin = end

    def _of_cost(self, cost: Mapping[str, Any]) -> Mapping[str, Any] | None:
        same = [update for update in self.updates if update["cost"] == cost]
        return same[0] if same else None
