"""The position of a run in tokens and FLOPs, and its rates per second."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from salt_jax.config import Experiment, Stage
from salt_jax.data.reading import batch_ranges
from salt_jax.mesh.chips import Chip, chip_of
from salt_jax.model.flops import step_flops
from salt_jax.training.position import Position


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocks:
    """The clocks of a run after a step."""

    step: int
    stage: Stage | None
    seconds: float  # Time spent in steps.
    stall: float  # Seconds waited for the input of `stage`, since it was opened.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedometer:
    """Turns the clocks of a run into tokens, FLOPs and rates."""

    experiment: Experiment
    num_devices: int
    chip: Chip | None  # None if its peak is unknown, as a CPU's is.
    since: Position = Position()  # Where this experiment took over.

    @classmethod
    def on(
        cls,
        experiment: Experiment,
        devices: Sequence[jax.Device],
        since: Position = Position(),
    ) -> Speedometer:
        """Returns the speedometer of `experiment` on `devices`, all of one kind."""
        chip = chip_of(devices[0].device_kind)
        return cls(
            experiment=experiment, num_devices=len(devices), chip=chip, since=since
        )

    def at(self, step: int) -> Position:
        """Returns the position after `step` steps."""
        begin = self.since.step
        batches = self._batches(begin, step)
        return Position(
            step=step,
            rows=self.since.rows + (step - begin) * self.experiment.batch_size,
            tokens=self.since.tokens + batches * self._tokens_per_step,
            flops=self.since.flops + self._flops(step) - self._flops(begin),
        )

    def position(self, step: int) -> dict[str, float]:
        """Returns the tokens and the model FLOPs of the first `step` steps.

        Batches in `skip_batches` have neither.
        """
        at = self.at(step)
        return {"tokens": at.tokens, "flops": float(at.flops)}

    def left_out(self, step: int) -> int:
        """Returns how many of the first `step` steps have their batch left out."""
        return step - self._batches(0, step)

    def rates(self, then: Clocks, now: Clocks) -> dict[str, float]:
        """Returns the mean rates over the steps from `then` to `now`.

        "mfu", the share of the chip's peak, is left out if the peak is unknown.
        """
        elapsed = max(now.seconds - then.seconds, 1e-9)
        steps = now.step - then.step
        # Each stage opens its own input, and its stall starts at 0.
        stall = now.stall - (then.stall if now.stage is then.stage else 0.0)
        flops = self._flops(now.step) - self._flops(then.step)
        tokens = self._batches(then.step, now.step) * self._tokens_per_step
        per_device = flops / elapsed / self.num_devices
        rates = {
            "step_seconds": elapsed / steps,
            "tokens_per_second": tokens / elapsed,
            "tflops_per_second_per_device": per_device / 1e12,
            "input_stall": stall / elapsed,
        }
        if self.chip is not None:
            rates["mfu"] = per_device / self.chip.flops_per_second
        return rates

    @property
    def _tokens_per_step(self) -> int:
        return self.experiment.batch_size * self.experiment.seq_len

    def _flops(self, step: int) -> int:
        """Returns the model FLOPs of `step` steps from 0 on with this experiment."""
        return sum(
            self._batches(begin_step, min(step, stage.end_step))
            * self._step_flops(stage)
            for begin_step, stage in self.experiment.timeline()
            if step > begin_step
        )

    def _batches(self, begin: int, end: int) -> int:
        """Returns how many batches are read in steps `begin` + 1 to `end`."""
        left_out = batch_ranges.count(self.experiment.skip_batches, begin, end)
        return end - begin - left_out

    def _step_flops(self, stage: Stage) -> int:
        distillation = stage.distillation
        per_token = step_flops(
            self.experiment.model,
            distillation.teacher if distillation else None,
            self.experiment.seq_len,
        )
        return per_token * self._tokens_per_step
