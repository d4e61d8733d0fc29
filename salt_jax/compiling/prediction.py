"""The predicted time of a compiled program, and the share of peak that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from salt_jax.compiling.hlo import Module
from salt_jax.compiling.links import Fabric
from salt_jax.compiling.schedule import COPIES, OTHER, PRODUCTS, Item, Walk
from salt_jax.mesh.chips import Chip
from salt_jax.model.flops import FlopsBill

_OWN = {PRODUCTS, OTHER, COPIES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The time of one execution. Nothing was run."""

    seconds_by_item: Mapping[Item, float]
    peak_seconds: float  # The products of the compiled program at the peak rate.
    sending_seconds: float  # Of all collective operations, hidden or not.
    memory_bytes: float  # Between memory and chip.
    flops: float  # Of the products that were found in the program.
    model_flops: float  # By formula, per chip, recomputation excluded.
    recomputed_flops: float
    chip: Chip

    @property
    def seconds(self) -> float:
        """The seconds of the execution."""
        return sum(self.seconds_by_item.values())

    def of(self, part: str) -> float:
        """Returns the seconds of `PRODUCTS`, `OTHER` or `COPIES`."""
        return sum(x for item, x in self.seconds_by_item.items() if item.part == part)

    def exposed(self, *, across_slices: bool) -> float:
        """Returns the seconds of collective operations that nothing hides."""
        return sum(
            x
            for item, x in self.seconds_by_item.items()
            if item.part not in _OWN and item.across_slices == across_slices
        )

    @property
    def mfu(self) -> float:
        """Model FLOPs, recomputation excluded, as a share of peak."""
        return self.model_flops / self.seconds / self.chip.flops_per_second

    @property
    def hfu(self) -> float:
        """The same with recomputation."""
        flops = self.model_flops + self.recomputed_flops
        return flops / self.seconds / self.chip.flops_per_second

    def largest(self, most: int) -> list[tuple[Item, float]]:
        """Returns the items that take longest."""
        items = sorted(self.seconds_by_item.items(), key=lambda item: -item[1])
        return items[:most]

    def as_json(self) -> dict[str, Any]:
        """Returns the prediction in seconds, bytes, FLOPs and shares."""
        return {
            "seconds": self.seconds,
            "products_seconds": self.of(PRODUCTS),
            "products_at_peak_seconds": self.peak_seconds,
            "other_seconds": self.of(OTHER),
            "copies_seconds": self.of(COPIES),
            "exposed_seconds": self.exposed(across_slices=False),
            "exposed_across_slices_seconds": self.exposed(across_slices=True),
            "sending_seconds": self.sending_seconds,
            "memory_bytes": self.memory_bytes,
            "flops": self.flops,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "largest": [
                dataclasses.asdict(item) | {"seconds": seconds}
                for item, seconds in self.largest(20)
            ],
        }


def predict(
    text: str, mesh: Mesh, chip: Chip | None, flops: FlopsBill, tokens_per_chip: float
) -> Prediction | None:
    """Returns the predicted time of a program, from its schedule.

    Products and other work take the cycles of XLA's own cost model for TPUs; where the
    text has none, the longer of FLOPs and bytes at the chip's peak rates. For GPUs
    there is no such model, and most products are in libraries that it knows nothing of.

    Args:
      text: The result of `Compiled.as_text`, compiled as `train` does.
      mesh: The devices that the program was compiled for.
      chip: Their published rates.
      flops: The FLOPs per token by formula.
      tokens_per_chip: The tokens of one execution, divided by the number of chips.

    Returns:
      None if the program has no schedule, the chip is no TPU or a rate is unknown.
    """
    is_scheduled = "is_scheduled=true" in text.partition("\n")[0]
    if chip is None or chip.flops_per_cycle is None or not is_scheduled:
        return None
    module = Module.parse(text)
    fabric = Fabric.of(chip, list(mesh.devices.flat))
    schedule = Walk(module, fabric).of(module.entry)
    if schedule.unknown or not schedule.seconds:
        return None
    return Prediction(
        seconds_by_item=schedule.seconds,
        peak_seconds=schedule.flops / chip.flops_per_second,
        sending_seconds=schedule.sending,
        memory_bytes=schedule.memory_bytes,
        flops=schedule.flops,
        model_flops=(flops.total - flops.recomputed) * tokens_per_chip,
        recomputed_flops=flops.recomputed * tokens_per_chip,
        chip=chip,
    )
