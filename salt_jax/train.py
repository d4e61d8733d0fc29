"""Training: the stages of an experiment in order, resumed where the run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.data.reading.loader import open_batches
from salt_jax.evaluation.beside_teacher import BesideTeacher
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.processes import job
from salt_jax.storage.array_files import absolute, check_name
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.profiling import TracedSteps, Tracer
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.telemetry.trackers.opening import open_trackers
from salt_jax.telemetry.trackers.tracker import TrackedRun, Tracker
from salt_jax.telemetry.warning_log import WarningLog
from salt_jax.training import going_back, resumption, run_directory, saving
from salt_jax.training.loop import Loop, Measure, OpenBatches
from salt_jax.training.position import Position
from salt_jax.training.preemption import PreemptionGuard
from salt_jax.training.program import CompiledUpdate, Program
from salt_jax.training.rates import Speedometer
from salt_jax.training.recorder import Recorder, recorded_seconds
from salt_jax.training.saved_steps import load_compiled
from salt_jax.training.stage_ends import StageEnds
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.stop_signals import StopSignals
from salt_jax.training.tally import Tally
from salt_jax.training.train_step import TrainState
from salt_jax.training.watching import open_lookout


def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    *,
    operative_gin: str = "",
    accepted_changes: Sequence[str] = (),
    traced: TracedSteps | None = None,
    began: float | None = None,
    compiled: epath.PathLike | None = None,
    restore_step: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    trackers: Sequence[str] = (),
    open_batches: OpenBatches = open_batches,
    signals: StopSignals | None = None,
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
      restore_step: The checkpoint to resume from; later ones are set aside. None: the
        latest.
      devices: The devices to train on; default: all.
      trackers: The names of services that show the metrics, beside TensorBoard.
      open_batches: Opens the batches of a loader from an index on.
      signals: What notes the signals that ask to stop; default: those of this call.

    Returns:
      The state after the last step.

    Raises:
      FileNotFoundError: data, a vocabulary or an export is missing.
      ValueError: the run directory belongs to another experiment or is in use by
        another job, its files are not of one run, the experiment does not fit the
        devices, an export is of another model or vocabulary, or the run does not reach
        the steps to profile.
      OSError: the storage failed.
      FloatingPointError: a loss was not finite.
      PreemptedError: a signal asked to stop, and the state was saved.
    """
    workdir, began = epath.Path(workdir), began or time.monotonic()
    check_name(absolute(workdir))
    program = Program.on(experiment, devices)
    program.check_memory()
    if traced is not None:
        traced.check(from_step=0, total_steps=experiment.total_steps)
    with contextlib.ExitStack() as stack:
        signals = _hold(workdir, stack, signals)
        warned = stack.enter_context(WarningLog(workdir))
        start = _found(experiment, workdir, accepted_changes, restore_step)
        if traced is not None and start.meta:
            traced = traced.still_ahead(start.step, experiment.total_steps)
        if start.step >= experiment.total_steps:
            logging.info("Complete at step %d: %s.", start.step, workdir)
            return start.state(program)
        saving.check_room(program, start.saved)
        inputs = _Inputs.open(program, start, accepted_changes)
        job.agree({"step": start.step, "inputs": inputs.fingerprints})
        lookout = open_lookout(experiment, workdir, start.step, inputs.stages)
        times = start.time_sheet(workdir, began)
        updates = _loaded_updates(program, inputs, compiled)
        with times.spending("restore"):
            state = start.state(program)
        # Nothing in the run directory has changed until here.
        run_directory.write_config(workdir, experiment, operative_gin, step=start.step)
        if jax.process_index() == 0:
            warned.begin()
        with times.spending("compile"):
            stages = [one.stage for one in inputs.stages]
            updates = updates or program.compile_all(stages)
        going_back.set_aside(start.saved, start.step)
        recorder = Recorder(
            experiment,
            workdir,
            from_step=start.step,
            times=times,
            tally=Tally.of(program, start.meta, times, workdir),
            lookout=lookout,
            speed=Speedometer.on(program.devices),
            dropped=0 if state.guard is None else int(state.guard.dropped),
            trackers=_trackers(trackers, experiment, workdir),
        )
        stack.enter_context(contextlib.closing(recorder))
        tracer = Tracer(traced, workdir / "profile", pausing=recorder.pausing)
        loop = Loop(
            program=program,
            fingerprints=start.meta.get("inputs", {}) | inputs.fingerprints,
            saver=stack.enter_context(saving.saver_of(experiment, workdir)),
            recorder=recorder,
            tracer=stack.enter_context(tracer),
            guard=PreemptionGuard(signals),
            measure=inputs.measure,
            beside=inputs.beside,
            ends=start.ends,
            open_batches=open_batches,
            restored_step=restore_step or start.meta.get(going_back.RESTORED_STEP),
        )
        for stage, update in zip(inputs.stages, updates, strict=True):
            if int(state.step) < stage.stage.end_step:
                state = loop.run(stage, update, state)
        recorder.tally.write_bill()
    logging.info("Complete at step %d: %s.", experiment.total_steps, workdir)
    return state


def _hold(
    workdir: epath.Path, stack: contextlib.ExitStack, signals: StopSignals | None
) -> StopSignals:
    """Locks `workdir` for this job, also if a signal ends it before the first step."""
    if signals is None:
        signals = stack.enter_context(StopSignals())
    lock = stack.enter_context(contextlib.ExitStack())
    lock.enter_context(run_directory.held_by_this_job(workdir))
    signals.at_end(lock.close)
    signals.at_end(lambda: job.tell("a signal stopped it before the first step."))
    return signals


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Start:
    """Where a run starts: at its latest checkpoint, or at step 0 without one."""

    step: int
    meta: dict[str, Any]  # Of the checkpoint; empty without one.
    saved: SavedCheckpoints
    ends: StageEnds

    @property
    def position(self) -> Position:
        return Position.of(self.meta)

    def time_sheet(self, workdir: epath.Path, began: float) -> TimeSheet:
        spent = self.meta.get("spent_seconds", {})
        return TimeSheet(began, spent, recorded=recorded_seconds(workdir))

    def state(self, program: Program) -> TrainState:
        # A run starts from, in this order: its own latest checkpoint; the export named
        # by the experiment; fresh parameters.
        at = self.step if self.meta else None
        state = resumption.restore(program, self.saved, self.meta, at)
        return program.fresh_state() if state is None else state


def _found(
    experiment: Experiment,
    workdir: epath.Path,
    accepted: Sequence[str],
    restore_step: int | None,
) -> _Start:
    """Returns where to start, once all that is in `workdir` is found to be of one run.

    Nothing is written.
    """
    saved = SavedCheckpoints(workdir / "checkpoints")
    latest = going_back.step_to_resume(saved, restore_step)
    meta = {} if latest is None else saved.read_meta(latest)
    resumption.check_experiment(experiment, meta, accepted)
    resumption.check_skipped(experiment, meta, latest or 0, accepted)
    run_directory.check_files(workdir, experiment, latest=latest, accepted=accepted)
    resumption.log_other_versions(meta)
    ends = StageEnds.of(meta)
    return _Start(step=latest or 0, meta=meta, saved=saved, ends=ends)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The inputs of all stages that are left, and the held-out measurements."""

    stages: list[StageInputs]
    fingerprints: dict[str, str]
    measure: Measure | None
    beside: BesideTeacher | None

    @classmethod
    def open(cls, program: Program, start: _Start, accepted: Sequence[str]) -> _Inputs:
        """Opens all before the first step: a missing file is reported at once."""
        experiment = program.experiment
        stages = []
        for begin_step, stage in experiment.timeline(start.ends.ended):
            if stage.end_step <= start.step:
                continue
            opened = StageInputs.open(program, stage, start.position)
            num_rows = (stage.end_step - begin_step) * experiment.batch_size
            opened.log_epochs(num_rows, batch_size=experiment.batch_size)
            stages.append(opened)
        fingerprints = {k: v for one in stages for k, v in one.fingerprints().items()}
        if not start.meta and program.initial is not None:
            # A run that is resumed has no more need of it, so it may be gone by then.
            fingerprints["initial_export"] = program.initial.fingerprint
        measure = beside = None
        if experiment.validation is not None:
            held_out = held_out_of(program)
            measure = held_out.open()
            if any(one.teacher for one in stages):
                beside = BesideTeacher(program, held_out.rows())
        if beside is not None and experiment.measures:
            fingerprints["validation"] = beside.rows.fingerprint
        resumption.check_inputs(fingerprints, start.meta, accepted)
        return cls(
            stages=stages, fingerprints=fingerprints, measure=measure, beside=beside
        )


def _loaded_updates(
    program: Program, inputs: _Inputs, compiled: epath.PathLike | None
) -> Sequence[CompiledUpdate]:
    """Returns the update of each stage that is left, if they are compiled already."""
    if compiled is None:
        return []
    return load_compiled(compiled, program, [one.stage for one in inputs.stages])


def _trackers(
    names: Sequence[str], experiment: Experiment, workdir: epath.Path
) -> Sequence[Tracker]:
    if jax.process_index() != 0:
        return []
    about = config.as_json(experiment)
    return open_trackers(names, TrackedRun(workdir=workdir, experiment=about))
