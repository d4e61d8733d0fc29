"""What a run says while it goes: metrics, progress, and a stop at a bad loss."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

import jax
from etils import epath

from salt_jax.config import Experiment, Stage
from salt_jax.metrics import MetricWriter, WeightedMean
from salt_jax.model.flops import step_flops
from salt_jax.progress import Progress
from salt_jax.train_step import Metrics


@dataclasses.dataclass
class _Pending:
    step: int
    stage: Stage
    metrics: Metrics
    stall: float


@dataclasses.dataclass
class _Reading:
    step: int
    stage: Stage | None
    seconds: float
    stall: float


class Recorder:
    """Reads the metrics of a step once the next one has been dispatched.

    So the host never waits for the step that it has just handed to the devices. A
    record has the means over the tokens since the one before, and of what is no mean
    the last value.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: epath.Path,
        *,
        from_step: int,
        seconds: float,
    ):
        self._experiment = experiment
        self._writer = MetricWriter(workdir, from_step=from_step)
        self._from_step = from_step
        self._progress: Progress | None = None
        self._pending: _Pending | None = None
        self._facts: dict[str, float | str] = {}
        self._seconds = seconds
        self._resumed_at: float | None = None
        self._last = _Reading(from_step, None, seconds, 0.0)
        self._summed: Stage | None = None
        self._sums: Metrics = {}

    @property
    def seconds(self) -> float:
        """Time spent in steps so far: not compiling, loading or validating."""
        if self._resumed_at is None:
            return self._seconds
        return self._seconds + time.monotonic() - self._resumed_at

    def resume(self) -> None:
        """Starts the clock."""
        if self._progress is None:  # Its rate leaves out the compiler's time.
            total = self._experiment.total_steps
            self._progress = Progress("train", total, initial=self._from_step)
        self._resumed_at = time.monotonic()

    def pause(self) -> None:
        """Waits for the last step, and stops the clock."""
        self.settle()
        self._seconds, self._resumed_at = self.seconds, None

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
        self._writer.write(step, self._position(step, self.seconds) | values)
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
        if self._progress is not None:
            self._progress.update(pending.step, **self._facts)
        self._add(pending.stage, metrics)
        every, total = self._experiment.log_every, self._experiment.total_steps
        if pending.step % every == 0 or pending.step == total:
            self._record(pending)

    def _add(self, stage: Stage, metrics: Metrics) -> None:
        """Adds what was measured to the sums since the last record of `stage`."""
        if self._summed is not stage:
            self._summed, self._sums = stage, {}
        for name, value in metrics.items():
            if isinstance(value, WeightedMean) and name in self._sums:
                value = self._sums[name] + value
            self._sums[name] = value

    def _record(self, pending: _Pending) -> None:
        now = _Reading(pending.step, pending.stage, self.seconds, pending.stall)
        then, self._last = self._last, now
        elapsed = max(now.seconds - then.seconds, 1e-9)
        tokens = (now.step - then.step) * self._tokens_per_step
        # A stage opens its own input, whose stall counts from nothing.
        stall = now.stall - (then.stall if now.stage is then.stage else 0.0)
        learning_rate = self._experiment.optimizer.learning_rate(now.step - 1)
        rates = {
            "learning_rate": float(learning_rate),
            "tokens_per_second": tokens / elapsed,
            "input_stall": stall / elapsed,
        }
        stage = {"stage": pending.stage.name}
        values = stage | self._position(now.step, now.seconds)
        self._writer.write(now.step, values | self._sums | rates)
        self._summed = None

    @property
    def _tokens_per_step(self) -> int:
        return self._experiment.batch_size * self._experiment.seq_len

    def _position(self, step: int, seconds: float) -> dict[str, float]:
        """Returns how far a run is at `step`, as tokens, FLOPs and seconds."""
        flops = sum(
            steps * flops_per_step for steps, flops_per_step in self._flops(step)
        )
        return {
            "tokens": step * self._tokens_per_step,
            "flops": float(flops),
            "seconds": seconds,
        }

    def _flops(self, step: int) -> Iterator[tuple[int, int]]:
        for begin_step, stage in self._experiment.timeline():
            distillation = stage.distillation
            per_token = step_flops(
                self._experiment.model,
                distillation.teacher if distillation else None,
                self._experiment.seq_len,
            )
            steps = min(step, stage.end_step) - begin_step
            yield max(steps, 0), per_token * self._tokens_per_step
