"""Records metrics and progress, and stops a run whose numbers are not finite."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax.config import Experiment, Stage
from salt_jax.data.reading import batch_ranges
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.symptoms.lookout import Lookout
from salt_jax.telemetry.metric_writer import MetricWriter, plain
from salt_jax.telemetry.progress import Progress
from salt_jax.telemetry.time_sheet import OTHER, STEPS, TimeSheet
from salt_jax.telemetry.trackers.tracker import Tracker
from salt_jax.training.bad_steps import check_step
from salt_jax.training.rates import Clocks, Speedometer
from salt_jax.training.tally import Tally
from salt_jax.training.train_step import Metrics


@dataclasses.dataclass
class _Pending:
    step: int
    stage: Stage
    metrics: Metrics | None  # None if the batch is left out by name.
    stall: float


class Recorder:
    """Reads the metrics of a step after the next step is dispatched.

    So the host never waits for the step that it has just dispatched. A record holds
    means over the tokens since the previous record; a scalar metric has its last value.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: epath.Path,
        *,
        from_step: int,
        times: TimeSheet,
        tally: Tally,
        speed: Speedometer,
        lookout: Lookout | None = None,
        dropped: int = 0,
        trackers: Sequence[Tracker] = (),
    ):
        """Opens the records of a run, and drops those of steps after `from_step`.

        Args:
          experiment: The experiment of the run.
          workdir: The run directory.
          from_step: The updates of the checkpoint that is resumed; 0 without one.
          times: The time sheet of the run.
          tally: What the run has read and computed before.
          speed: The speedometer of its devices.
          lookout: Looks at each record; None: nothing is warned of.
          dropped: The updates that the guard dropped in these steps.
          trackers: Services that get the records too.
        """
        self._experiment = experiment
        self.tally, self._speed, self._lookout = tally, speed, lookout
        self._writer = MetricWriter(workdir, from_step=from_step, trackers=trackers)
        self._from_step, self._dropped = from_step, dropped
        self.times = times
        self._progress: Progress | None = None
        self._pending: _Pending | None = None
        self._facts: dict[str, float | str] = {}
        self._last = Clocks(
            at=tally.position, stage=None, seconds=times.totals()[STEPS], stall=0.0
        )
        self._summed: Stage | None = None
        self._sums: Metrics = {}

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Counts the time inside as steps; waits for the last step before leaving."""
        if self._progress is None:  # Opened here, so that its rate excludes compiling.
            total = self._experiment.total_steps
            rows = functools.partial(self._experiment.batches.rows, 0)
            self._progress = Progress(
                "train", total, initial=self._from_step, work=rows
            )
        with self.times.spending(STEPS):
            yield
            self.settle()

    @contextlib.contextmanager
    def pausing(self, part: str = OTHER) -> Iterator[None]:
        """Waits for the last step, then counts the time inside the block for `part`.

        Its record is in the run directory before: a checkpoint never lacks metrics.
        """
        self.settle()
        with self.times.spending(part):
            self._writer.flush()
            yield

    def after(
        self, step: int, stage: Stage, metrics: Metrics | None, stall: float
    ) -> None:
        """Notes that a step was dispatched, and settles the step before it.

        Args:
          step: The number of updates, including this one.
          stage: The stage of the step.
          metrics: The metrics that the update returned, perhaps still being computed;
            None if the batch of the step is left out.
          stall: Seconds the loop has waited for the stage's input so far.
        """
        previous = self._pending
        self._pending = _Pending(step, stage, metrics, stall)
        self._settle(previous)

    def settle(self) -> None:
        """Waits for the last step, and records it if a record is due.

        Raises:
          FloatingPointError: as `check_step` raises it.
        """
        previous, self._pending = self._pending, None
        self._settle(previous)

    def validated(
        self,
        step: int,
        values: dict[str, float],
        decided: dict[str, float | str] | None = None,
    ) -> None:
        """Records held-out metrics of the parameters after `step` updates.

        Args:
          step: The updates.
          values: The metrics by name.
          decided: What was decided by them, if anything.

        Raises:
          FloatingPointError: one of them is not finite.
        """
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(
                f"Held-out metrics are not finite after step {step}: {values}. Nothing "
                "since the last checkpoint was saved."
            )
        seconds = {"seconds": self.times.totals()[STEPS]}
        known = self._spent() | seconds | values
        self._write(step, known | (decided or {}))
        for name in [name for name in self._facts if name.startswith("val_")]:
            del self._facts[name]
        self._facts |= values

    def close(self) -> None:
        """Ends the progress line and the event file."""
        if self._progress is not None:
            self._progress.close()
        self._writer.close()

    def _settle(self, pending: _Pending | None) -> None:
        if pending is None:
            return
        self._facts |= {"stage": pending.stage.name}
        is_read = pending.metrics is not None
        self.tally.step(pending.step, pending.stage, is_read=is_read)
        if pending.metrics is None:
            logging.info(
                "Step %d: batch %d is left out.", pending.step, pending.step - 1
            )
        else:
            # On every process, before process 0 alone writes them.
            self._judge(pending, jax.device_get(pending.metrics))
        every, total = self._experiment.log_every, self._experiment.total_steps
        if pending.step % every == 0 or pending.step == total:
            self._record(pending)
        if self._progress is not None:
            self._progress.update(pending.step, **self._facts)

    def _judge(self, pending: _Pending, metrics: Metrics) -> None:
        """Adds the metrics of a step that kept its update."""
        self._dropped = int(metrics.pop("skipped_updates", 0))
        if check_step(self._experiment, pending.step, pending.stage, metrics):
            metrics.pop("skipped_in_a_row", None)
            self._facts |= {"loss": float(metrics["loss"].mean())}
            self._add(pending.stage, metrics)

    def _add(self, stage: Stage, metrics: Metrics) -> None:
        """Adds `metrics` to the sums since the last record of `stage`."""
        if self._summed is not stage:
            self._summed, self._sums = stage, {}
        for name, value in metrics.items():
            if isinstance(value, WeightedMean) and name in self._sums:
                value = self._sums[name] + value
            self._sums[name] = value

    def _record(self, pending: _Pending) -> None:
        times = self.times.record()
        now = Clocks(
            at=self.tally.position,
            stage=pending.stage,
            seconds=times["seconds"],
            stall=pending.stall,
        )
        then, self._last = self._last, now
        rates = self._speed.rates(then, now)
        learning_rate = self._experiment.optimizer.learning_rate(pending.step - 1)
        values = {
            "stage": pending.stage.name,
            **self._spent(),
            **(self._sums if self._summed is pending.stage else {}),
            **self._skipped(pending.step),
            "learning_rate": float(learning_rate),
            **rates,
            **times,
        }
        self._write(pending.step, values)
        self._summed = None
        self._facts |= {
            "step": f"{rates['step_seconds']:.3g} s",
            "tokens/s": f"{rates['tokens_per_second']:,.0f}",
            "stall": f"{rates['input_stall']:.1%}",
        }

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record, with the warnings that it gives rise to."""
        record = {name: plain(value) for name, value in values.items()}
        if self._lookout is not None:
            record |= self._lookout.see({"step": step} | record)
        self._writer.write(step, record)

    def _spent(self) -> dict[str, float]:
        at = self.tally.position
        return {"tokens": at.tokens, "flops": float(at.flops)}

    def _skipped(self, step: int) -> dict[str, int]:
        """Returns the steps without an update, if this experiment can have them."""
        if self._experiment.guard is None and not self._experiment.skip_batches:
            return {}
        left_out = batch_ranges.count(self._experiment.skip_batches, 0, step)
        return {"skipped_updates": self._dropped + left_out}
