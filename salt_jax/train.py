"""Training: the stages of an experiment in order, resumed where the run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax
from absl import logging
from etils import epath

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.data.reading.loader import open_batches
from salt_jax.evaluation.run_inputs import RunInputs
from salt_jax.processes import job
from salt_jax.storage.array_files import absolute, check_name
from salt_jax.symptoms.lookout import Lookout
from salt_jax.telemetry.profiling import TracedSteps, Tracer
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.telemetry.trackers.opening import open_trackers
from salt_jax.telemetry.trackers.tracker import TrackedRun, Tracker
from salt_jax.telemetry.warning_log import WarningLog
from salt_jax.training import going_back, run_directory, saving
from salt_jax.training.compiled_updates import CompiledUpdate, compile_updates
from salt_jax.training.loop import Loop, OpenBatches
from salt_jax.training.preemption import PreemptionGuard
from salt_jax.training.program import Program
from salt_jax.training.rates import Speedometer
from salt_jax.training.recorder import Recorder
from salt_jax.training.run_start import RunStart
from salt_jax.training.saved_steps import load_compiled
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
        start = RunStart.find(experiment, workdir, accepted_changes, restore_step)
        if traced is not None and start.meta:
            traced = traced.still_ahead(start.step, experiment.total_steps)
        if start.step >= experiment.total_steps:
            logging.info("Complete at step %d: %s.", start.step, workdir)
            return start.state(program)
        run = _Run.open(program, workdir, start, accepted_changes, began)
        updates = run.loaded_updates(compiled)
        with run.times.spending("restore"):
            state = start.state(program)
        # Nothing in the run directory has changed until here.
        run_directory.write_config(workdir, experiment, operative_gin, step=start.step)
        if jax.process_index() == 0:
            warned.begin()
        with run.times.spending("compile"):
            updates = updates or compile_updates(program, run.inputs.left, start.step)
        going_back.set_aside(start.saved, start.step)
        with run.loop(state, traced, signals, trackers, open_batches) as loop:
            for stage, update in zip(run.inputs.stages, updates, strict=True):
                if int(state.step) < stage.stage.end_step:
                    state = loop.run(stage, update, state)
            loop.recorder.tally.write_bill()
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
class _Run:
    """A run from its start on: its inputs are open, and its directory is untouched."""

    program: Program
    workdir: epath.Path
    start: RunStart
    inputs: RunInputs
    lookout: Lookout | None
    times: TimeSheet

    @classmethod
    def open(
        cls,
        program: Program,
        workdir: epath.Path,
        start: RunStart,
        accepted: Sequence[str],
        began: float,
    ) -> _Run:
        """Opens the inputs, which all processes must find to be the same."""
        saving.check_room(program, start.saved)
        inputs = RunInputs.open(program, start, accepted)
        job.agree({"step": start.step, "inputs": inputs.fingerprints})
        return cls(
            program=program,
            workdir=workdir,
            start=start,
            inputs=inputs,
            lookout=open_lookout(
                program.experiment, workdir, start.step, inputs.stages
            ),
            times=start.time_sheet(workdir, began),
        )

    def loaded_updates(self, compiled: epath.PathLike | None) -> list[CompiledUpdate]:
        """Returns the update of each stage left, if they are compiled already."""
        if compiled is None:
            return []
        return load_compiled(compiled, self.program, self.inputs.left, self.start.step)

    @contextlib.contextmanager
    def loop(
        self,
        state: TrainState,
        traced: TracedSteps | None,
        signals: StopSignals,
        trackers: Sequence[str],
        open_batches: OpenBatches,
    ) -> Iterator[Loop]:
        """Opens the loop: its records, its checkpoints and its trace."""
        workdir, recorder = self.workdir, self._recorder(state, trackers)
        tracer = Tracer(traced, workdir / "profile", pausing=recorder.pausing)
        with (
            contextlib.closing(recorder),
            saving.saver_of(self.program.experiment, workdir) as saver,
            tracer,
        ):
            yield Loop(
                program=self.program,
                fingerprints=self.start.inputs | self.inputs.fingerprints,
                saver=saver,
                recorder=recorder,
                tracer=tracer,
                guard=PreemptionGuard(signals),
                measure=self.inputs.measure,
                beside=self.inputs.beside,
                ends=self.start.ends,
                open_batches=open_batches,
                restored_step=self.start.restored_step,
            )

    def _recorder(self, state: TrainState, trackers: Sequence[str]) -> Recorder:
        program, workdir, times = self.program, self.workdir, self.times
        return Recorder(
            program.experiment,
            workdir,
            from_step=self.start.step,
            times=times,
            tally=Tally.of(program, self.start.meta, times, workdir),
            lookout=self.lookout,
            speed=Speedometer.on(program.devices),
            dropped=0 if state.guard is None else int(state.guard.dropped),
            trackers=_trackers(trackers, program.experiment, workdir),
        )


def _trackers(
    names: Sequence[str], experiment: Experiment, workdir: epath.Path
) -> Sequence[Tracker]:
    if jax.process_index() != 0:
        return []
    about = config.as_json(experiment)
    return open_trackers(names, TrackedRun(workdir=workdir, experiment=about))
