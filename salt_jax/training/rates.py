"""How far a run is and how fast it goes, by formula and by the clock."""

from __future__ import annotations

import dataclasses

from salt_jax.config import Experiment, Stage
from salt_jax.mesh.chips import Chip
from salt_jax.model.flops import step_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The clocks of a run after a step."""

    step: int
    stage: Stage | None
    seconds: float  # In steps.
    stall: float  # In the input of `stage`, since it was opened.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedometer:
    """What an experiment computes, and on what."""

    experiment: Experiment
    num_devices: int
    chip: Chip | None  # None where no peak is known, as of a CPU.

    def position(self, step: int) -> dict[str, float]:
        """Returns how far a run is at `step`, as tokens and model FLOPs."""
        return {
            "tokens": step * self._tokens_per_step,
            "flops": float(self._flops(step)),
        }

    def rates(self, then: Reading, now: Reading) -> dict[str, float]:
        """Returns how fast the steps from `then` to `now` went."""
        elapsed = max(now.seconds - then.seconds, 1e-9)
        steps = now.step - then.step
        # A stage opens its own input, whose stall counts from nothing.
        stall = now.stall - (then.stall if now.stage is then.stage else 0.0)
        flops = self._flops(now.step) - self._flops(then.step)
        per_device = flops / elapsed / self.num_devices
        rates = {
            "step_seconds": elapsed / steps,
            "tokens_per_second": steps * self._tokens_per_step / elapsed,
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
        """Returns the model FLOPs of all steps up to `step`."""
        return sum(
            max(min(step, stage.end_step) - begin_step, 0) * self._step_flops(stage)
            for begin_step, stage in self.experiment.timeline()
        )

    def _step_flops(self, stage: Stage) -> int:
        distillation = stage.distillation
        per_token = step_flops(
            self.experiment.model,
            distillation.teacher if distillation else None,
            self.experiment.seq_len,
        )
        return per_token * self._tokens_per_step
