"""Training: the stages of an experiment in order, resumed where the run stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.data.reading.loader import open_batches
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.telemetry.profiling import TracedSteps, Tracer
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.telemetry.warning_log import WarningLog
from salt_jax.training import resumption
from salt_jax.training.loop import Loop, OpenBatches
from salt_jax.training.preemption import PreemptionGuard
from salt_jax.training.program import CompiledUpdate, Program
from salt_jax.training.rates import Speedometer
from salt_jax.training.recorder import Recorder, recorded_seconds
from salt_jax.training.saved_steps import load_compiled
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.train_step import TrainState


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
    """Trains to the end of the last stage, and resumes the run in `workdir` if any.

    Args:
      experiment: What to compute.
      workdir: The run directory; created if missing.
      operative_gin: The gin text behind `experiment`, written to `config.gin`.
      accepted_changes: Dotted names of fields and inputs that may differ on a resume.
      traced: The steps to profile, into `profile` of the run directory.
      began: `time.monotonic()` when the process began; default: now.
      compiled: A directory of compiled steps; None: compile them.
      devices: The devices to train on; default: all.
      open_batches: Opens the batches of a loader from an index on.

    Returns:
      The state after the last step.

    Raises:
      FileNotFoundError: data, a vocabulary or an export is missing.
      ValueError: the run directory belongs to another experiment, the experiment does
        not fit the devices, an export is of another model or vocabulary, or the run
        does not reach the steps to profile.
      FloatingPointError: a loss was not finite.
      PreemptedError: SIGTERM came, and the state was saved.
    """
    workdir, began = epath.Path(workdir), began or time.monotonic()
    program = Program.on(experiment, devices)
    program.check_memory()
    if traced is not None:
        traced.check(from_step=0, total_steps=experiment.total_steps)
    with (
        WarningLog(workdir) as warned,
        _open_checkpoints(experiment, workdir) as saved,
        PreemptionGuard() as guard,
    ):
        latest = saved.latest_step()
        meta = {} if latest is None else saved.read_meta(latest)
        resumption.check_experiment(experiment, meta, accepted_changes)
        resumption.check_skipped(experiment, meta, latest or 0, accepted_changes)
        if traced is not None and latest is not None:
            traced = traced.still_ahead(latest, experiment.total_steps)
        _write_config(experiment, workdir, operative_gin)
        if jax.process_index() == 0:
            warned.begin()
        spent = meta.get("spent_seconds", {})
        times = TimeSheet(began, spent, recorded=recorded_seconds(workdir))
        with times.spending("restore"):
            state = _first_state(program, saved, meta)
            step = int(state.step)
        if step >= experiment.total_steps:
            logging.info("Complete at step %d: %s.", step, workdir)
            return state
        stages = _open_stages(program, step)
        inputs = {k: v for stage in stages for k, v in stage.fingerprints().items()}
        resumption.check_inputs(inputs, meta, accepted_changes)
        measure = held_out_of(program).open() if experiment.validation else None
        with times.spending("compile"):
            updates = _updates(program, step, compiled)
        speed = Speedometer.on(experiment, program.devices)
        dropped = 0 if state.guard is None else int(state.guard.dropped)
        recorder = Recorder(
            speed, workdir, from_step=step, times=times, dropped=dropped
        )
        tracer = Tracer(traced, workdir / "profile", pausing=recorder.pausing)
        loop = Loop(
            program=program,
            fingerprints=meta.get("inputs", {}) | inputs,
            saved=saved,
            recorder=recorder,
            tracer=tracer,
            guard=guard,
            measure=measure,
            open_batches=open_batches,
        )
        with contextlib.closing(recorder), tracer:
            for stage, update in zip(stages, updates, strict=True):
                state = loop.run(stage, update, state)
    return state


def _open_stages(program: Program, step: int) -> list[StageInputs]:
    """Opens the inputs of every stage that is left at `step`, and logs its epochs.

    All are opened before the first step, so that a missing file of a later stage is
    reported at once.
    """
    experiment = program.experiment
    left = program.stages_from(step)
    opened = {stage.name: StageInputs.open(program, stage) for stage in left}
    for begin_step, stage in experiment.timeline():
        if stage.name in opened:
            num_rows = (stage.end_step - begin_step) * experiment.batch_size
            opened[stage.name].log_epochs(num_rows, batch_size=experiment.batch_size)
    return list(opened.values())


def _first_state(
    program: Program, saved: Checkpointer, meta: Mapping[str, Any]
) -> TrainState:
    # A run starts from, in this order: its own latest checkpoint; the export named by
    # the experiment; fresh parameters.
    state = resumption.restore_latest(program, saved, meta)
    return program.fresh_state() if state is None else state


def _updates(
    program: Program, step: int, compiled: epath.PathLike | None
) -> Sequence[CompiledUpdate]:
    """Returns the compiled update of each stage that is left at `step`, in order."""
    if compiled is None:
        return program.compile_from(step)
    return load_compiled(compiled, program, program.stages_from(step))


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
    write_file(workdir / "config.gin", gin_text)
    write_record(workdir / "experiment.json", config.as_json(experiment))
