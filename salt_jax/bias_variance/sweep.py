"""The runs of a `KnownTruth` study: ordinary runs, resumed, and skipped if complete.

`OUTPUT/teachers/NAME` and `OUTPUT/students/ARM/STEPS/seed-K` are run directories, and
`export` in each is what was exported of it. The arm of students that leave their
teacher ends in "-leaves".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.config import Distillation, Experiment, Stage, Validation
from salt_jax.export import export_run
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant, WarmupCosine
from salt_jax.studies.known_truth import KnownTeacher, KnownTruth
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.transition.decision import LEFT_STAGE

ONE_HOT = "one_hot"
# Seeds of students count from 0, and their text is not that of the teachers.
_TEACHER_SEED = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What validations of a run measured."""

    steps: list[int]
    losses: list[float]  # Held-out cross-entropy [nats].
    excess_risks: list[float]  # KL(truth, model) [nats].
    left_step: int | None = None  # Where a leave rule ended a stage.

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Curve:
        """Returns the curve in a run's metric records."""
        found = [record for record in records if "val_excess_risk" in record]
        return cls(
            steps=[record["step"] for record in found],
            losses=[record["val_loss"] for record in found],
            excess_risks=[record["val_excess_risk"] for record in found],
            left_step=next((x["step"] for x in found if LEFT_STAGE in x), None),
        )

    @property
    def final(self) -> float:
        """The excess risk at the end [nats]."""
        return self.excess_risks[-1]

    def first_step_at(self, loss: float) -> float | None:
        """Returns the step at which the held-out loss is first `loss`, interpolated."""
        found = [*zip(self.steps, self.losses, strict=True)]
        for i, (step, at) in enumerate(found):
            if at > loss:
                continue
            if not i:
                return float(step)
            before, above = found[i - 1]
            return before + (step - before) * (above - loss) / (above - at)
        return None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A study and the directory of its runs."""

    study: KnownTruth

    @property
    def root(self) -> epath.Path:
        """The directory of the study."""
        return epath.Path(self.study.output)

    def teacher(self, teacher: KnownTeacher) -> Curve:
        """Trains and exports a teacher, unless that was done; returns its curve."""
        experiment = self._experiment(
            (self._stage(teacher.num_steps),), teacher.num_steps, _TEACHER_SEED
        )
        experiment = dataclasses.replace(experiment, model=teacher.model)
        return self._run(experiment, self._teacher_folder(teacher.name), export=True)

    def student(
        self,
        teacher: KnownTeacher | None,
        num_steps: int,
        seed: int,
        *,
        leaves: bool = False,
    ) -> Curve:
        """Trains a student, unless that was done; returns its curve.

        Args:
          teacher: Whose labels it learns; None: one-hot labels.
          num_steps: Of the run.
          seed: Of its parameters and its text.
          leaves: Whether it leaves the teacher by the study's rule.
        """
        experiment = self.experiment(teacher, num_steps, seed, leaves=leaves)
        arm = ONE_HOT if teacher is None else teacher.name + "-leaves" * leaves
        folder = self.root / "students" / arm / str(num_steps) / f"seed-{seed}"
        return self._run(experiment, folder)

    def experiment(
        self,
        teacher: KnownTeacher | None,
        num_steps: int,
        seed: int,
        *,
        leaves: bool = False,
    ) -> Experiment:
        """Returns the experiment of a student; arguments as for `student`."""
        stages = [self._stage(num_steps)]
        if teacher is not None:
            distillation = Distillation(
                teacher=teacher.model,
                teacher_export=str(self._teacher_folder(teacher.name) / "export"),
                kd_weight=Constant(value=self.study.kd_weight),
                teacher_dtype="float32",
            )
            taught = dataclasses.replace(stages[0], distillation=distillation)
            stages = [taught]
            if leaves:
                taught = dataclasses.replace(taught, leave=self.study.leave)
                alone = dataclasses.replace(self._stage(num_steps), name="alone")
                stages = [taught, alone]
        found = self._experiment(stages, num_steps, seed)
        is_measured = teacher is None and num_steps == self.study.student_steps[-1]
        if is_measured and seed == self.study.seeds[0]:
            kept = tuple(self.study.gradient_steps)
            found = dataclasses.replace(found, keep_steps=kept)
        return found

    def snapshots(self) -> dict[int, epath.Path]:
        """Exports the measured steps of the longest one-hot run, by step."""
        num_steps, seed = self.study.student_steps[-1], self.study.seeds[0]
        experiment = self.experiment(None, num_steps, seed)
        self.student(None, num_steps, seed)
        folder = self.root / "students" / ONE_HOT / str(num_steps) / f"seed-{seed}"
        found = {}
        for step in self.study.gradient_steps:
            found[step] = folder / f"export-{step}"
            export_run(experiment, folder, found[step], step=str(step))
        return found

    def all_students(self) -> Iterator[tuple[KnownTeacher | None, int, int]]:
        """Yields the teacher, steps and seed of each student."""
        for seed in self.study.seeds:
            for num_steps in self.study.student_steps:
                for teacher in (None, *self.study.teachers):
                    yield teacher, num_steps, seed

    def _teacher_folder(self, name: str) -> epath.Path:
        return self.root / "teachers" / name

    def _stage(self, num_steps: int) -> Stage:
        return Stage(name="all", end_step=num_steps, data=self.study.language)

    def _experiment(
        self, stages: Sequence[Stage], num_steps: int, seed: int
    ) -> Experiment:
        study = self.study
        rate = WarmupCosine(
            peak=study.peak_learning_rate,
            end=study.end_learning_rate,
            warmup_steps=study.warmup_steps,
            total_steps=num_steps,
        )
        return Experiment(
            model=study.student,
            stages=stages,
            optimizer=AdamW(learning_rate=rate, weight_decay=0.0),
            batch_size=study.batch_size,
            seq_len=study.seq_len,
            validation=Validation(
                data=dataclasses.replace(study.language, split="val"),
                every=study.measure_every,
                num_sequences=study.num_sequences,
            ),
            seed=seed,
            save_every=max(num_steps, 1),
            log_every=max(num_steps // 20, 1),
        )

    def _run(
        self, experiment: Experiment, folder: epath.Path, *, export: bool = False
    ) -> Curve:
        # A complete run ends at once, and one of another experiment is refused.
        train(experiment, folder)
        if export:
            export_run(experiment, folder, folder / "export")
        return Curve.of(read_metrics(folder))
