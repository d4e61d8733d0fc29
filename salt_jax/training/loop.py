"""The training loop: the updates of a stage, and what is due between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from absl import logging

from salt_jax import config
from salt_jax.config import Stage
from salt_jax.data.reading.loader import Loader
from salt_jax.files.bill import Bill
from salt_jax.mesh import agreement
from salt_jax.model.transformer import Params
from salt_jax.telemetry import versions
from salt_jax.telemetry.profiling import Tracer
from salt_jax.training.compiled_updates import CompiledUpdate
from salt_jax.training.going_back import RESTORED_STEP
from salt_jax.training.preemption import PreemptionGuard
from salt_jax.training.program import Program
from salt_jax.training.recorder import Recorder
from salt_jax.training.saving import Saver
from salt_jax.training.stage_ends import StageEnds
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.train_step import TrainState, leave_out
from salt_jax.transition.measures import VAL_LOSS, VAL_TEACHER_LOSS

OpenBatches = Callable[[Loader, int], Any]  # By the index of the first batch.
# Returns held-out metrics by name, "val_loss" [nats per target] among them.
Measure = Callable[[Params], dict[str, float]]


class BesideTeacher(Protocol):
    """Held-out measures that need the teacher of a stage."""

    def loss(self, stage: Stage, teacher: Params) -> float:
        """Returns the teacher's loss on the rows of the validation."""

    def identity(self, stage: Stage, teacher_fingerprint: str) -> str:
        """Returns a digest of what `loss` depends on."""

    def measured(
        self, stage: Stage, params: Params, teacher: Params
    ) -> dict[str, float]:
        """Returns the measures by name that the stage reads, of both models."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """Applies updates, and validates, saves and stops between them."""

    program: Program
    fingerprints: Mapping[str, str]  # Of the data and teachers of all stages.
    saver: Saver
    recorder: Recorder
    tracer: Tracer
    guard: PreemptionGuard
    measure: Measure | None  # None without validation.
    open_batches: OpenBatches
    ends: StageEnds
    beside: BesideTeacher | None  # None without validation.
    restored_step: int | None = None  # Where the run went back to, if it did.

    def run(
        self, inputs: StageInputs, update: CompiledUpdate, state: TrainState
    ) -> TrainState:
        """Applies `update` until the stage of `inputs` ends; returns the last state.

        Raises:
          FloatingPointError: a loss was not finite.
          PreemptedError: a signal asked to stop, and the state was saved.
        """
        stage, begin_step = inputs.stage, int(state.step)
        logging.info(
            "Stage %r: steps %d to %d, %s.",
            stage.name,
            begin_step + 1,
            stage.end_step,
            "with a teacher" if stage.distillation else "without a teacher",
        )
        with self.recorder.times.spending("restore"):
            teacher = inputs.load_teacher(self.program)
        self._begin(inputs, teacher)
        state = self.ends.weighed(stage, state)
        with (
            self.recorder.stepping(),
            self.open_batches(inputs.loader, begin_step) as batches,
        ):
            for step in range(begin_step + 1, stage.end_step + 1):
                with self.tracer.step(step):
                    metrics = None
                    if inputs.loader.first_read(step - 1) == step - 1:
                        batch = next(batches)
                        self.guard.begin_steps()
                        state, metrics = update(state, teacher, batch)
                    else:
                        self.guard.begin_steps()
                        state = leave_out(state)
                    self.recorder.after(step, stage, metrics, batches.stall_seconds)
                state = self._between_steps(step, stage, teacher, state)
                if stage.name in self.ends.decided:
                    break
        for leaf in jax.tree.leaves(teacher):
            leaf.delete()
        return state

    def _begin(self, inputs: StageInputs, teacher: Params | None) -> None:
        """Measures the teacher of a stage, unless the run has done so before."""
        stage = inputs.stage
        self.ends.begin(stage)
        if teacher is None or inputs.teacher is None or self.beside is None:
            return
        identity = self.beside.identity(stage, inputs.teacher.fingerprint)
        if self.ends.teacher_loss(stage, identity) is None:
            with self.recorder.times.spending("validation"):
                loss = self.beside.loss(stage, teacher)
            self.ends.teachers[stage.name] = (loss, identity)
            logging.info(
                "Stage %r: %s of its teacher is %.6g.", stage.name, VAL_LOSS, loss
            )

    def _between_steps(
        self, step: int, stage: Stage, teacher: Params | None, state: TrainState
    ) -> TrainState:
        """Validates, saves and stops if due after `step` updates.

        Returns:
          The state, with the weight of the teacher that the validation gave.
        """
        is_last = step == self.program.experiment.total_steps
        stop = self.guard.requested()
        measured = self._validate(step, stage, teacher, state, is_last)
        if measured is not None:
            state = self.ends.weighed(stage, state)
        if self.saver.is_due(step) or is_last or stop:
            # Waits for the loss: a state with a bad one is not saved.
            with self.recorder.pausing("save"):
                save = self.saver.save_last if is_last or stop else self.saver.save
                bill = self.recorder.tally.write_bill()
                save(step, state, self._meta(stage, bill), measured)
        if stop and not is_last:
            raise self.guard.stopped(step)
        return state

    def _validate(
        self,
        step: int,
        stage: Stage,
        teacher: Params | None,
        state: TrainState,
        is_last: bool,
    ) -> dict[str, float] | None:
        """Returns the held-out metrics of `state`; None if no validation is due.

        Then `stage` may end by its rule.
        """
        validation = self.program.experiment.validation
        if self.measure is None or validation is None:
            return None
        if step % validation.every and not is_last:
            return None
        with self.recorder.pausing("validation"):
            values = self.measure(state.params)
            if state.average is not None:
                averaged = self.measure(state.average.params)
                values |= {f"{name}_average": x for name, x in averaged.items()}
            if teacher is not None and self.beside is not None:
                values |= {VAL_TEACHER_LOSS: self.ends.teachers[stage.name][0]}
                values |= self.beside.measured(stage, state.params, teacher)
            values = agreement.of_process_0(values)
        decision = self.ends.validated(step, stage, values)
        said = decision.record(stage.name) if decision else None
        self.recorder.validated(step, values, said)
        return values

    def _meta(self, stage: Stage, bill: Bill) -> dict[str, Any]:
        """Returns what a checkpoint holds beside the state."""
        return {
            "experiment": config.as_json(self.program.experiment),
            "experiment_fingerprint": config.fingerprint(self.program.experiment),
            "stage": stage.name,
            "position": self.recorder.tally.position.to_meta(),
            "bill": dataclasses.asdict(bill),
            "inputs": dict(self.fingerprints),
            "spent_seconds": bill.seconds,
            "versions": versions.of_packages(),
            RESTORED_STEP: self.restored_step,
        } | self.ends.to_meta()
