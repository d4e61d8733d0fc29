"""What is known of one run, read from the files in its run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.files.records import read_record, typed
from salt_jax.report.file_types import EvaluationFile, ExperimentFile, SamplesFile
from salt_jax.telemetry.metric_writer import METRICS_FILE, read_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The metrics and the experiment of one run, as far as it has come."""

    workdir: str
    records: Sequence[Mapping[str, Any]]
    experiment: Mapping[str, Any]

    @classmethod
    def read(cls, workdir: epath.PathLike) -> TrainedRun:
        """Reads the directory of a run, which may go on.

        Raises:
          FileNotFoundError: it was not trained.
          ValueError: a file is damaged.
        """
        path = epath.Path(workdir) / "experiment.json"
        return cls(
            workdir=str(workdir),
            records=read_metrics(workdir),
            experiment=read_json(path, "train", ExperimentFile),
        )

    def spent(self, what: str) -> float:
        """Returns the total "flops", or the "seconds" in steps by the run's clock."""
        return float(self.records[-1][what])

    @property
    def data_paths(self) -> list[str]:
        """The directories of the prepared sequences that the stages read."""
        data = [stage["data"] for stage in self.experiment["stages"]]
        parts = [part for each in data for part in each.get("parts", [each])]
        return [part["path"] for part in parts if part.get("path")]

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return int(self.records[-1]["step"])

    @property
    def stage_ends(self) -> list[int]:
        """The steps at which the stages ended, by a rule of theirs or at `end_step`."""
        left = {r["left_stage"]: r["step"] for r in self.records if "left_stage" in r}
        stages = self.experiment["stages"]
        return [left.get(stage["name"], stage["end_step"]) for stage in stages]

    @property
    def planned_steps(self) -> int:
        """The number of steps at the end of the last stage."""
        return max((x["end_step"] for x in self.experiment["stages"]), default=0)

    @property
    def wall_seconds(self) -> float:
        """Wall-clock time [s], including compilation, validation and checkpoints."""
        return max(record.get("wall_seconds", 0.0) for record in self.records)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(TrainedRun):
    """A run that was evaluated: also its evaluation and its samples."""

    evaluation: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]  # "domain", "prompt" and "continuation".

    @classmethod
    def read(cls, workdir: epath.PathLike) -> Run:
        """Reads the directory of a run that was trained and then evaluated.

        Raises:
          FileNotFoundError: it was not trained, or not evaluated.
          ValueError: a file is damaged, or lacks what a complete run has.
        """
        folder = epath.Path(workdir)
        evaluation = read_json(folder / "evaluation.json", "evaluate", EvaluationFile)
        samples = read_json(folder / "samples.json", "evaluate", SamplesFile)
        trained = TrainedRun.read(workdir)
        run = cls(
            workdir=trained.workdir,
            records=trained.records,
            experiment=trained.experiment,
            evaluation=evaluation,
            samples=samples["samples"],
        )
        run._check_records()
        return run

    def _check_records(self) -> None:
        """Refuses a complete run whose metrics were cut off."""
        evaluated = self.evaluation["step"]
        # A complete run ends with a validation, if it has any.
        measured = [r for r in self.records if "val_loss" in r] or self.records
        found = measured[-1]["step"] if measured else 0
        if evaluated == self.planned_steps and found < evaluated:
            raise ValueError(
                f"{epath.Path(self.workdir) / METRICS_FILE} ends at step {found}, and "
                f"the run was evaluated after step {evaluated}: it was cut off. "
                "Restore it, or train again."
            )

    def domains(self, split: str) -> Mapping[str, Mapping[str, float]]:
        """Returns the metrics of each domain of "val" or "test"."""
        return self.evaluation["splits"][split]["domains"]

    def total(self, split: str) -> Mapping[str, float]:
        """Returns the metrics over all of "val" or "test"."""
        return self.evaluation["splits"][split]["total"]


def read_json(path: epath.Path, command: str, kind: Any) -> Any:
    """Returns the record in a file that a command wrote.

    Args:
      path: The file.
      command: The command, for messages.
      kind: The type to check: a TypedDict of the fields that are read.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is damaged, or has other fields.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}: the command {command!r} writes it. Run "
            "it first."
        )
    remedy = f"the command {command!r} writes it; run it again"
    fields = read_record(path, dict[str, Any], remedy=remedy)
    typed(fields, kind, where=str(path), remedy=remedy)
    return fields  # With all fields, which `kind` lacks.
