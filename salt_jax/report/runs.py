"""The runs that a report is about, read from the files in their workdirs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.report.comparison import (
    PassingPoint,
    ValidationCurve,
    passing_point,
    transition_step,
)
from salt_jax.telemetry.metric_writer import read_metrics

WRITTEN_BY = {
    "evaluation.json": "evaluate",
    "samples.json": "evaluate",
    "experiment.json": "train",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What one run left in its workdir."""

    workdir: str
    records: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    experiment: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]  # Of "domain", "prompt", "continuation".

    @classmethod
    def read(cls, workdir: epath.PathLike) -> Run:
        """Reads the workdir of a run that was trained and then evaluated.

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
        """Returns the "flops" or the "seconds" of the whole run."""
        return float(self.records[-1][what])

    def domains(self, split: str) -> Mapping[str, Mapping[str, float]]:
        """Returns the measures of each domain of "val" or "test"."""
        return self.evaluation["splits"][split]["domains"]

    def total(self, split: str) -> Mapping[str, float]:
        """Returns the measures of all of "val" or "test"."""
        return self.evaluation["splits"][split]["total"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of a report, and what follows from them.

    Raises:
      ValueError: the runs were not evaluated on the same splits and domains.
    """

    baseline: Run
    salt: Run
    slm: Run
    scoring: Mapping[str, float] | None  # "flops" and "seconds", where there was any.

    def __post_init__(self) -> None:
        found = {run.workdir: _measured(run) for run in self.models.values()}
        if len({str(measured) for measured in found.values()}) > 1:
            raise ValueError(
                f"The runs were evaluated on different splits and domains: {found}. "
                "Evaluate all of them on one prepared dataset."
            )

    @classmethod
    def read(
        cls,
        *,
        baseline: epath.PathLike,
        salt: epath.PathLike,
        slm: epath.PathLike,
        scores: epath.PathLike | None,
    ) -> Comparison:
        """Reads three workdirs, and the bill of the scoring where there was one."""
        return cls(
            baseline=Run.read(baseline),
            salt=Run.read(salt),
            slm=Run.read(slm),
            scoring=None if scores is None else dataclasses.asdict(read_bill(scores)),
        )

    @property
    def models(self) -> dict[str, Run]:
        """The models, in the order in which they are shown."""
        return {"BASELINE": self.baseline, "SALT": self.salt, "SLM": self.slm}

    @property
    def curves(self) -> dict[str, ValidationCurve]:
        """The validations of the two runs that are compared."""
        pair = {"BASELINE": self.baseline, "SALT": self.salt}
        return {name: ValidationCurve.of(run.records) for name, run in pair.items()}

    @property
    def passing(self) -> PassingPoint | None:
        """Where SALT has BASELINE's final loss, if it ever has."""
        return passing_point(self.curves["SALT"], self.curves["BASELINE"])

    @property
    def transition(self) -> int | None:
        """The step of SALT at which its first stage ended."""
        return transition_step(self.salt.records)

    def bill(self, what: str) -> float:
        """Returns "flops" or "seconds" of what SALT needs first: SLM and scores."""
        return self.slm.spent(what) + self.spent_scoring(what)

    def spent_scoring(self, what: str) -> float:
        """Returns "flops" or "seconds" of making the scores; 0 where there are none."""
        return 0.0 if self.scoring is None else float(self.scoring[what])


def _measured(run: Run) -> dict[str, list[str]]:
    return {split: sorted(run.domains(split)) for split in run.evaluation["splits"]}


def _read_json(workdir: epath.Path, name: str) -> Any:
    path = workdir / name
    if not path.exists():
        raise FileNotFoundError(
            f"No {name} in {workdir}: the command {WRITTEN_BY[name]!r} writes it; run "
            "that on this workdir first."
        )
    return json.loads(path.read_text())
