"""One run of a laboratory, as far as it has come, and what was measured of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.report.curves import LossCurve
from salt_jax.report.file_types import (
    EvaluationFile,
    FewShotFile,
    SequenceLossesFile,
)
from salt_jax.report.runs import TrainedRun, read_json
from salt_jax.telemetry.metric_writer import METRICS_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRun:
    """A run of an arm or of a small model."""

    workdir: str
    trained: TrainedRun | None  # None: it has not begun.
    evaluation: Mapping[str, Any] | None  # None: it was not evaluated.
    sequence_losses: Mapping[str, Sequence[float]]  # By split; empty: not evaluated.
    few_shot: Mapping[int, float]  # Average over tasks by step.
    loss: str = "val_loss"  # The name of the held-out loss.

    @classmethod
    def read(
        cls,
        workdir: str,
        few_shot: Mapping[str, str],
        *,
        others: Sequence[str] = (),
        average: bool = False,
    ) -> SeedRun:
        """Reads what there is of a run.

        Args:
          workdir: The run directory.
          few_shot: Folders that `evaluate --tasks` writes, by step.
          others: Files of evaluations on other text, each in a folder named after it.
          average: Whether its moving average of the parameters is meant.

        Raises:
          ValueError: a file is damaged.
        """
        folder = epath.Path(workdir)
        suffix = "_average" if average else ""

        def read(name: str, kind: Any) -> Any:
            path = folder / f"{name}{suffix}.json"
            return read_json(path, "evaluate", kind) if path.exists() else None

        losses = read("sequence_losses", SequenceLossesFile)
        begun = (folder / METRICS_FILE).exists()
        return cls(
            workdir=workdir,
            trained=TrainedRun.read(workdir) if begun else None,
            evaluation=_with_others(read("evaluation", EvaluationFile), others),
            sequence_losses=losses["splits"] if losses else {},
            few_shot=_few_shot(few_shot),
            loss=f"val_loss{suffix}",
        )

    @property
    def validated(self) -> list[Mapping[str, Any]]:
        """The records of validations."""
        records = [] if self.trained is None else self.trained.records
        return [record for record in records if self.loss in record]

    @property
    def is_finished(self) -> bool:
        """Whether the last step was made and validated."""
        return self.trained is not None and any(
            record["step"] >= self.trained.planned_steps for record in self.validated
        )

    @property
    def status(self) -> str:
        """How far the run has come, in words."""
        if self.trained is None:
            return "not begun"
        if self.is_finished:
            return "finished"
        records = self.trained.records
        step = records[-1]["step"] if records else 0
        return f"at step {step:,} of {self.trained.planned_steps:,}"

    @property
    def final_loss(self) -> float:
        """The loss of the last validation [nats per token]."""
        return float(self.validated[-1][self.loss])

    @property
    def curve(self) -> LossCurve:
        """The held-out losses, of a run that was validated."""
        return LossCurve.of(self.trained.records if self.trained else [], self.loss)

    @property
    def teacher_loss(self) -> float | None:
        """The teacher's loss on the validation rows, if the run measured it."""
        records = [] if self.trained is None else self.trained.records
        found = [r["val_teacher_loss"] for r in records if "val_teacher_loss" in r]
        return float(found[0]) if found else None

    @property
    def teacher_export(self) -> str | None:
        """The export of the first stage's teacher, None without one."""
        stages = [] if self.trained is None else self.trained.experiment["stages"]
        taught = [stage["distillation"] for stage in stages if stage["distillation"]]
        return taught[0]["teacher_export"] if taught else None

    @property
    def validation_rows(self) -> dict[str, Any]:
        """What decides the rows that `val_loss` is measured on.

        Raises:
          ValueError: the run has no validation.
        """
        assert self.trained is not None
        said = self.trained.experiment.get("validation")
        if not said:
            raise ValueError(
                f"{self.workdir} has no validation: a laboratory compares held-out "
                "losses. Set Experiment.validation, and train again."
            )
        names = ("data", "num_sequences")
        return {name: said.get(name) for name in names} | {
            "seq_len": self.trained.experiment.get("seq_len")
        }


def _with_others(
    evaluation: Mapping[str, Any] | None, others: Sequence[str]
) -> Mapping[str, Any] | None:
    """Returns an evaluation with the splits of others beside its own."""
    splits = dict(evaluation["splits"]) if evaluation else {}
    for path in map(epath.Path, others):
        if path.exists():
            found = read_json(path, "evaluate", EvaluationFile)["splits"]
            name = path.parent.name
            splits |= {f"{name}, {split}": said for split, said in found.items()}
    return {"splits": splits} if splits else None


def _few_shot(folders: Mapping[str, str]) -> dict[int, float]:
    """Returns the average over tasks by step, of those that were evaluated."""
    found = {}
    for step, folder in folders.items():
        path = epath.Path(folder) / "few_shot.json"
        if path.exists():
            tables = read_json(path, "evaluate --tasks", FewShotFile)
            found[int(step)] = _average(tables["tasks"])
    return dict(sorted(found.items()))


def _average(rows: list[Mapping[str, Any]]) -> float:
    """Returns the first group's mean, else the mean over the tasks' first metrics."""
    means = [row for row in rows if row["metric"] == "mean"]
    firsts = {row["name"]: row for row in reversed(rows) if row["is_share"]}
    chosen = means[:1] or list(firsts.values()) or rows
    values = [next(iter(row["marks"].values()))["value"] for row in chosen]
    return sum(values) / len(values)
