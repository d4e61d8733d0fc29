"""The rates of a run per second."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from salt_jax.config import Stage
from salt_jax.mesh.chips import Chip, chip_of
from salt_jax.training.position import Position


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocks:
    """The clocks of a run after a step."""

    at: Position
    stage: Stage | None
    seconds: float  # Time spent in steps.
    stall: float  # Seconds waited for the input of `stage`, since it was opened.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedometer:
    """Turns the clocks of a run into rates."""

    num_devices: int
    chip: Chip | None  # None if its peak is unknown, as a CPU's is.

    @classmethod
    def on(cls, devices: Sequence[jax.Device]) -> Speedometer:
        """Returns the speedometer of a run on `devices`, all of one kind."""
        return cls(num_devices=len(devices), chip=chip_of(devices[0].device_kind))

    def rates(self, then: Clocks, now: Clocks) -> dict[str, float]:
        """Returns the mean rates over the steps from `then` to `now`.

        "mfu", the share of the chip's peak, is left out if the peak is unknown.
        """
        elapsed = max(now.seconds - then.seconds, 1e-9)
        # Each stage opens its own input, and its stall starts at 0.
        stall = now.stall - (then.stall if now.stage is then.stage else 0.0)
        flops = now.at.flops - then.at.flops
        per_device = flops / elapsed / self.num_devices
        rates = {
            "step_seconds": elapsed / (now.at.step - then.at.step),
            "tokens_per_second": (now.at.tokens - then.at.tokens) / elapsed,
            "tflops_per_second_per_device": per_device / 1e12,
            "input_stall": stall / elapsed,
        }
        if self.chip is not None:
            rates["mfu"] = per_device / self.chip.flops_per_second
        return rates
