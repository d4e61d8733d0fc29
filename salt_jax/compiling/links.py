"""The time of a collective operation on the links between chips, by formula.

Peak rates, as published; nothing was measured here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from salt_jax.compiling.collectives import Transfer
from salt_jax.mesh.chips import Chip

# From one TPU to the next. An operation takes at least the hops of half a ring:
# "How to Scale Your Model" (Google DeepMind, 2025), part 3.
HOP_SECONDS = 1e-6
# How the TPU compiler says that it works along several rings at once.
_COLORS = re.compile(r"Strategy\w+\{colors:(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fabric:
    """The chips of a mesh and their connections."""

    chip: Chip
    slice_of: Sequence[int]  # By device, in the order of the mesh.
    # By device: its place in the torus of its slice; () behind a switch.
    places: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, chip: Chip, devices: Sequence[Any]) -> Fabric:
        """Returns the fabric of `devices`, in the order of the mesh."""
        return cls(
            chip=chip,
            slice_of=[getattr(x, "slice_index", 0) for x in devices],
            places=[tuple(getattr(x, "coords", ())) for x in devices],
        )

    def seconds(self, transfer: Transfer, text: str = "") -> float | None:
        """Returns the time of one collective operation that has the links to itself.

        Args:
          transfer: What is sent.
          text: The instruction's attributes, which may name the algorithm.

        Returns:
          None if the rate is not published.
        """
        if transfer.across_slices:
            rate = self.chip.network_bytes_per_second
            return None if rate is None else transfer.sent / rate
        rate = self.chip.link_bytes_per_second
        if rate is None:
            return None
        dimensions = self.chip.torus_dimensions
        if not dimensions:
            return transfer.sent / rate
        rings, hops = self._rings(transfer, text)
        share = min(1.0, rings / dimensions)
        return max(transfer.sent / (rate * share), HOP_SECONDS * hops)

    def _rings(self, transfer: Transfer, text: str) -> tuple[float, float]:
        """Returns along how many rings a group sends, and the hops of the longest.

        A ring uses two links of a chip, one each way. A group that fills dimensions of
        the torus has one ring in each. Any other one goes around a rectangle, or along
        a line and back, on the same links.
        """
        places = [self.places[i] for i in transfer.group]
        sizes = [len(set(x)) for x in zip(*places, strict=True)]
        used = [
            (size, side)
            for size, side in zip(sizes, self._sides, strict=True)
            if size > 1
        ]
        is_full = all(size == side and self._wraps(side) for size, side in used)
        colors = _COLORS.search(text)
        if is_full or (colors and int(colors[1]) > 1):
            rings = float(colors[1]) if colors else max(1.0, len(used))
            if not all(self._wraps(side) for _, side in used):
                rings /= 2
            return rings, sum(size for size, _ in used) / 2
        if len(used) == 1:
            return 0.5, used[0][0] - 1
        return 1, len(transfer.group) / 2

    @property
    def _sides(self) -> Sequence[int]:
        """The sizes of the torus."""
        return [len(set(x)) for x in zip(*self.places, strict=True)]

    def _wraps(self, side: int) -> bool:
        """Returns whether the ends of a dimension are connected, as documented.

        In two dimensions only those of a whole pod are, in three those of any cube.
        """
        return side == 16 if self.chip.torus_dimensions == 2 else side % 4 == 0
