"""Stages in order, each a run of updates."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import config
from salt_jax.config import Experiment, Stage
from salt_jax.data.reading.loader import Loader, describe_epochs, open_batches
from salt_jax.data.selecting.selection import stage_warnings
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.validation import Measures
from salt_jax.model.transformer import Params
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.telemetry import versions
from salt_jax.telemetry.profiling import TracedSteps, Tracer
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.training import resumption
from salt_jax.training.preemption import PreemptedError, PreemptionGuard
from salt_jax.training.program import CompiledUpdate, Program
from salt_jax.training.recorder import Recorder, recorded_seconds
from salt_jax.training.saved_steps import load_compiled
from salt_jax.training.train_step import TrainState

OpenBatches = Callable[[Loader, int], Any]


def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    *,
    operative_gin: str = "",
    accepted_changes: Sequence[str] = (),
    traced: TracedSteps | None = None,
    began: float | None = None,
    compiled: epath.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    open_batches: OpenBatches = open_batches,
) -> TrainState:
    """Trains to the end of the last stage, from where `workdir` left off.

    Args:
      experiment: What to compute.
      workdir: The folder of the run; made if missing.
      operative_gin: The gin text behind `experiment`, kept beside it.
      accepted_changes: Dotted names of what may differ from a run that is resumed.
      traced: Steps to write a trace of, in the folder `profile` of the workdir.
      began: `time.monotonic()` when the process began; by default now.
      compiled: The folder of steps that were compiled before; None: compile them.
      devices: What to train on; by default all devices.
      open_batches: Opens the batches of a loader, from an index on.

    Raises:
      ValueError: the workdir belongs to another experiment, the experiment does not
        fit the devices, an export is of another model or vocabulary, or the run does
        not make the steps to trace.
      FloatingPointError: a loss was not finite.
      PreemptedError: SIGTERM came, and the state was saved.
    """
    workdir, began = epath.Path(workdir), began or time.monotonic()
    program = Program.on(experiment, devices)
    program.check_memory()
    if traced is not None:
        traced.check(from_step=0, total_steps=experiment.total_steps)
    with _open_checkpoints(experiment, workdir) as saved, PreemptionGuard() as guard:
        latest = saved.latest_step()
        meta = {} if latest is None else saved.read_meta(latest)
        resumption.check_experiment(experiment, meta, accepted_changes)
        if traced is not None and latest is not None:
            traced = traced.still_ahead(latest, experiment.total_steps)
        _write_config(experiment, workdir, operative_gin)
        spent = meta.get("spent_seconds", {})
        times = TimeSheet(began, spent, recorded=recorded_seconds(workdir))
        with times.spending("restore"):
            state = _first_state(program, saved)
            step = int(state.step)
        if step >= experiment.total_steps:
            logging.info("Complete at step %d: %s.", step, workdir)
            return state
        # Whatever a later stage lacks is known before anything is trained.
        loaders = {s.name: _open_inputs(program, s) for s in program.stages_from(step)}
        inputs = resumption.inputs_of(program, loaders)
        resumption.check_inputs(inputs, meta, accepted_changes)
        _log_epochs(experiment, loaders)
        measures = Measures.of(program)
        with times.spending("compile"):
            updates = _updates(program, step, compiled)
        recorder = Recorder(program, workdir, from_step=step, times=times)
        tracer = Tracer(traced, workdir / "profile", pausing=recorder.pausing)
        inputs = meta.get("inputs", {}) | inputs
        loop = _Loop(
            program, inputs, saved, recorder, tracer, guard, measures, open_batches
        )
        with contextlib.closing(recorder), tracer:
            for stage, update in updates:
                state = loop.run(stage, loaders[stage.name], update, state)
    return state


def _updates(
    program: Program, step: int, compiled: epath.PathLike | None
) -> Sequence[tuple[Stage, CompiledUpdate]]:
    if compiled is None:
        return list(program.compile_from(step))
    return load_compiled(compiled, program, program.stages_from(step))


def _first_state(program: Program, saved: Checkpointer) -> TrainState:
    # A run starts from, in this order: its own latest checkpoint; the export named by
    # the experiment; fresh parameters.
    state = saved.restore_latest(program.abstract_state)
    return program.fresh_state() if state is None else state


@dataclasses.dataclass(frozen=True)
class _Loop:
    """What surrounds the updates of a stage."""

    program: Program
    inputs: Mapping[str, str]  # Fingerprints of data and teachers.
    saved: Checkpointer
    recorder: Recorder
    tracer: Tracer
    guard: PreemptionGuard
    measures: Measures | None
    open_batches: OpenBatches

    def run(
        self, stage: Stage, loader: Loader, update: CompiledUpdate, state: TrainState
    ) -> TrainState:
        """Applies `update` until `stage` ends, with its teacher if it has one."""
        begin_step = int(state.step)
        logging.info(
            "Stage %r: steps %d to %d, %s.",
            stage.name,
            begin_step,
            stage.end_step,
            "with a teacher" if stage.distillation else "without a teacher",
        )
        with self.recorder.times.spending("restore"):
            teacher = self.program.load_teacher(stage)
        with (
            self.recorder.stepping(),
            self.open_batches(loader, begin_step) as batches,
        ):
            for step in range(begin_step + 1, stage.end_step + 1):
                with self.tracer.step(step):
                    state, metrics = update(state, teacher, next(batches))
                    self.recorder.after(step, stage, metrics, batches.stall_seconds)
                self._between_steps(step, stage, state)
        for leaf in jax.tree.leaves(teacher):
            leaf.delete()
        return state

    def _between_steps(self, step: int, stage: Stage, state: TrainState) -> None:
        """Validates, saves and stops where that is due."""
        is_last = step == self.program.experiment.total_steps
        stop = self.guard.requested()
        metrics = self._validate(step, state.params, is_last)
        if is_last or stop or self.saved.is_due(step):
            # Waits for the loss: a state with a bad one is not saved.
            with self.recorder.pausing("save"):
                save = self.saved.save_now if is_last or stop else self.saved.save
                save(step, state, self._meta(stage), metrics)
        if stop and not is_last:
            raise PreemptedError(f"Stopped at step {step}, and saved.")

    def _validate(
        self, step: int, params: Params, is_last: bool
    ) -> dict[str, float] | None:
        """Returns the held-out loss, and more, where it is due."""
        measures, validation = self.measures, self.program.experiment.validation
        if measures is None or validation is None:
            return None
        if step % validation.every and not is_last:
            return None
        with self.recorder.pausing("validation"):
            values = measures(params)
        self.recorder.validated(step, values)
        return values

    def _meta(self, stage: Stage) -> dict[str, Any]:
        return {
            "experiment": config.as_json(self.program.experiment),
            "experiment_fingerprint": config.fingerprint(self.program.experiment),
            "stage": stage.name,
            "inputs": dict(self.inputs),
            "spent_seconds": self.recorder.times.totals(),
            "versions": versions.of_packages(),
        }


def _open_inputs(program: Program, stage: Stage) -> Loader:
    """Returns the loader of `stage`, having checked its teacher's export too."""
    experiment = program.experiment
    Vocabulary.open(stage.data.vocabulary).check_model(experiment.model.vocab_size)
    if stage.distillation is not None:
        program.open_teacher(stage)
    return Loader(
        stage.data,
        batch_size=experiment.batch_size,
        seq_len=experiment.seq_len,
        seed=experiment.seed,
        partitioning=program.partitioning,
    )


def _log_epochs(experiment: Experiment, loaders: Mapping[str, Loader]) -> None:
    """Says how often each stage reads its text, or which part of it."""
    for begin_step, stage in experiment.timeline():
        if stage.name in loaders:
            num_rows = (stage.end_step - begin_step) * experiment.batch_size
            selected = getattr(stage.data, "selection", None) is not None
            rows = loaders[stage.name].rows
            reading = describe_epochs(num_rows, rows, selected=selected)
            logging.info("Stage %r %s.", stage.name, reading)
            if selected and rows.rows_per_epoch is not None:
                for line in stage_warnings(
                    rows.rows_per_epoch,
                    num_read=num_rows,
                    batch_size=experiment.batch_size,
                ):
                    logging.warning("Stage %r: %s", stage.name, line)


def _open_checkpoints(experiment: Experiment, workdir: epath.Path) -> Checkpointer:
    return Checkpointer(
        workdir / "checkpoints",
        every=experiment.save_every,
        max_to_keep=experiment.max_to_keep,
        keep_steps=experiment.keep_steps,
    )


def _write_config(experiment: Experiment, workdir: epath.Path, gin_text: str) -> None:
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.gin").write_text(gin_text)
    resolved = json.dumps(config.as_json(experiment), indent=2)
    (workdir / "experiment.json").write_text(resolved + "\n")
