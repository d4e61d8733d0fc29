"""What a run says while it goes: metrics, progress, and a stop at a bad loss."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import jax
from etils import epath

from salt_jax.config import Stage
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.mesh.chips import chip_of
from salt_jax.telemetry.metric_writer import METRICS_FILE, MetricWriter, read_metrics
from salt_jax.telemetry.progress import Progress
from salt_jax.telemetry.time_sheet import OTHER, STEPS, TimeSheet
from salt_jax.training.program import Program
from salt_jax.training.rates import Reading, Speedometer
from salt_jax.training.train_step import Metrics


@dataclasses.dataclass
class _Pending:
    step: int
    stage: Stage
    metrics: Metrics
    stall: float


class Recorder:
    """Reads the metrics of a step once the next one has been dispatched.

    So the host never waits for the step that it has just handed to the devices. A
    record has the means over the tokens since the one before, and of what is no mean
    the last value.
    """

    def __init__(
        self,
        program: Program,
        workdir: epath.Path,
        *,
        from_step: int,
        times: TimeSheet,
    ):
        """Opens the records of a run, and drops those of steps after `from_step`.

        Args:
          program: What is run, and on what.
          workdir: The folder of the run.
          from_step: Updates made before.
          times: Where the time of the run goes.
        """
        self._experiment = program.experiment
        self._writer = MetricWriter(workdir, from_step=from_step)
        self._from_step = from_step
        self.times = times
        devices = program.partitioning.mesh.devices
        self._speed = Speedometer(
            experiment=program.experiment,
            num_devices=devices.size,
            chip=chip_of(devices.flat[0].device_kind),
        )
        self._progress: Progress | None = None
        self._pending: _Pending | None = None
        self._facts: dict[str, float | str] = {}
        self._last = Reading(
            step=from_step, stage=None, seconds=times.totals()[STEPS], stall=0.0
        )
        self._summed: Stage | None = None
        self._sums: Metrics = {}

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Counts the time until the last step made in it is over as spent on steps."""
        if self._progress is None:  # Its rate leaves out the compiler's time.
            total = self._experiment.total_steps
            self._progress = Progress("train", total, initial=self._from_step)
        with self.times.spending(STEPS):
            yield
            self.settle()

    @contextlib.contextmanager
    def pausing(self, part: str = OTHER) -> Iterator[None]:
        """Waits for the last step; counts the time from then on as spent on `part`."""
        self.settle()
        with self.times.spending(part):
            yield

    def after(self, step: int, stage: Stage, metrics: Metrics, stall: float) -> None:
        """Notes that update number `step` was dispatched; settles the one before.

        Args:
          step: Updates made, this one counted.
          stage: The stage it belongs to.
          metrics: What it returned; not waited for.
          stall: Seconds that the stage's input has kept the loop waiting so far.
        """
        previous = self._pending
        self._pending = _Pending(step, stage, metrics, stall)
        self._settle(previous)

    def settle(self) -> None:
        """Waits for the last step, and records it if it is due.

        Raises:
          FloatingPointError: its loss is not finite.
        """
        previous, self._pending = self._pending, None
        self._settle(previous)

    def validated(self, step: int, values: dict[str, float]) -> None:
        """Records held-out `values` of the parameters after `step` updates.

        Raises:
          FloatingPointError: one of them is not finite.
        """
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(
                f"On held-out text, {values} after step {step}: the parameters are not "
                "finite. Nothing since the last checkpoint was saved."
            )
        seconds = {"seconds": self.times.totals()[STEPS]}
        self._writer.write(step, self._speed.position(step) | seconds | values)
        self._facts |= values

    def close(self) -> None:
        """Ends the progress line and the event file."""
        if self._progress is not None:
            self._progress.close()
        self._writer.close()

    def _settle(self, pending: _Pending | None) -> None:
        if pending is None:
            return
        # To the host first: only process 0 goes on to write them.
        metrics = jax.device_get(pending.metrics)
        loss = float(metrics["loss"].mean())
        grad_norm, update_norm = (
            float(metrics[name]) for name in ("grad_norm", "update_norm")
        )
        if not all(map(math.isfinite, (loss, grad_norm, update_norm))):
            raise FloatingPointError(
                f"The loss is {loss}, the norm of its gradient {grad_norm} and that of "
                f"the update {update_norm} at step {pending.step - 1}, in stage "
                f"{pending.stage.name!r}, on batch {pending.step - 1}. Nothing since "
                "the last checkpoint was saved."
            )
        self._facts |= {"stage": pending.stage.name, "loss": loss}
        self._add(pending.stage, metrics)
        every, total = self._experiment.log_every, self._experiment.total_steps
        if pending.step % every == 0 or pending.step == total:
            self._record(pending)
        if self._progress is not None:
            self._progress.update(pending.step, **self._facts)

    def _add(self, stage: Stage, metrics: Metrics) -> None:
        """Adds what was measured to the sums since the last record of `stage`."""
        if self._summed is not stage:
            self._summed, self._sums = stage, {}
        for name, value in metrics.items():
            if isinstance(value, WeightedMean) and name in self._sums:
                value = self._sums[name] + value
            self._sums[name] = value

    def _record(self, pending: _Pending) -> None:
        times = self.times.record()
        now = Reading(
            step=pending.step,
            stage=pending.stage,
            seconds=times["seconds"],
            stall=pending.stall,
        )
        then, self._last = self._last, now
        rates = self._speed.rates(then, now)
        learning_rate = self._experiment.optimizer.learning_rate(now.step - 1)
        values = {
            "stage": pending.stage.name,
            **self._speed.position(now.step),
            **self._sums,
            "learning_rate": float(learning_rate),
            **rates,
            **times,
        }
        self._writer.write(now.step, values)
        self._summed = None
        self._facts |= {
            "step": f"{rates['step_seconds']:.3g} s",
            "tokens/s": f"{rates['tokens_per_second']:,.0f}",
            "stall": f"{rates['input_stall']:.1%}",
        }


def recorded_seconds(workdir: epath.Path) -> float:
    """Returns how much time its attempts had spent at the last record of a run."""
    if not (workdir / METRICS_FILE).exists():
        return 0.0
    return max((r.get("wall_seconds", 0.0) for r in read_metrics(workdir)), default=0.0)
