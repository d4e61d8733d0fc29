"""The results of one run, read from the files in its run directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.telemetry.metric_writer import read_metrics

WRITTEN_BY = {
    "evaluation.json": "evaluate",
    "samples.json": "evaluate",
    "experiment.json": "train",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The metrics, evaluation, experiment and samples of one run."""

    workdir: str
    records: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    experiment: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]  # "domain", "prompt" and "continuation".

    @classmethod
    def read(cls, workdir: epath.PathLike) -> Run:
        """Reads the directory of a run that was trained and then evaluated.

        Raises:
          FileNotFoundError: it was not trained, or not evaluated.
        """
        files = {
            name: read_json(epath.Path(workdir) / name, command)
            for name, command in WRITTEN_BY.items()
        }
        return cls(
            workdir=str(workdir),
            records=read_metrics(workdir),
            evaluation=files["evaluation.json"],
            experiment=files["experiment.json"],
            samples=files["samples.json"],
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
    def wall_seconds(self) -> float:
        """Wall-clock time [s], including compilation, validation and checkpoints."""
        return max(record.get("wall_seconds", 0.0) for record in self.records)

    def domains(self, split: str) -> Mapping[str, Mapping[str, float]]:
        """Returns the metrics of each domain of "val" or "test"."""
        return self.evaluation["splits"][split]["domains"]

    def total(self, split: str) -> Mapping[str, float]:
        """Returns the metrics over all of "val" or "test"."""
        return self.evaluation["splits"][split]["total"]


def read_json(path: epath.Path, command: str) -> Any:
    """Returns the JSON value in a file that a command wrote.

    Raises:
      FileNotFoundError: the file is missing.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}: the command {command!r} writes it. Run "
            "it first."
        )
    return json.loads(path.read_text())
