"""A run as a report sees it, read from the files in its run directory."""

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
    """What one run left in its run directory."""

    workdir: str
    records: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    experiment: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]  # Of "domain", "prompt", "continuation".

    @classmethod
    def read(cls, workdir: epath.PathLike) -> Run:
        """Reads the directory of a run that was trained and then evaluated.

        Raises:
          FileNotFoundError: it was not.
        """
        files = {name: _read_json(epath.Path(workdir), name) for name in WRITTEN_BY}
        return cls(
            workdir=str(workdir),
            records=read_metrics(workdir),
            evaluation=files["evaluation.json"],
            experiment=files["experiment.json"],
            samples=files["samples.json"],
        )

    def spent(self, what: str) -> float:
        """Returns "flops" of the whole run, or its own clock's "seconds" in steps."""
        return float(self.records[-1][what])

    @property
    def data_paths(self) -> list[str]:
        """The folders of prepared sequences that the stages read."""
        data = [stage["data"] for stage in self.experiment["stages"]]
        parts = [part for each in data for part in each.get("parts", [each])]
        return [part["path"] for part in parts if part.get("path")]

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return int(self.records[-1]["step"])

    @property
    def wall_seconds(self) -> float:
        """Seconds of the whole run by its own clock: compiling, validating and all."""
        return max(record.get("wall_seconds", 0.0) for record in self.records)

    def domains(self, split: str) -> Mapping[str, Mapping[str, float]]:
        """Returns the measures of each domain of "val" or "test"."""
        return self.evaluation["splits"][split]["domains"]

    def total(self, split: str) -> Mapping[str, float]:
        """Returns the measures of all of "val" or "test"."""
        return self.evaluation["splits"][split]["total"]


def _read_json(workdir: epath.Path, name: str) -> Any:
    path = workdir / name
    if not path.exists():
        raise FileNotFoundError(
            f"No {name} in {workdir}: the command {WRITTEN_BY[name]!r} writes it. Run "
            "that on this run directory first."
        )
    return json.loads(path.read_text())
