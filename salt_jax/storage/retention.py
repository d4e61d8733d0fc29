"""Which steps are saved, and which checkpoints are deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """The steps to save, and the checkpoints to keep: the latest, the best, some."""

    every: int  # Steps between two checkpoints.
    max_to_keep: int  # The number of latest checkpoints to keep.
    keep_steps: Sequence[int] = ()  # Saved too, and never deleted.

    def __post_init__(self):
        for name in ("every", "max_to_keep"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}.")
        if min(self.keep_steps, default=1) < 1:
            steps = list(self.keep_steps)
            raise ValueError(f"keep_steps must be positive, got {steps}.")

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint is due at `step`."""
        return step % self.every == 0 or step in self.keep_steps

    def superfluous(
        self, steps: Sequence[int], losses: Mapping[int, float | None]
    ) -> list[int]:
        """Returns the steps whose checkpoints are to be deleted.

        Args:
          steps: The steps with a checkpoint, in increasing order.
          losses: The held-out loss of each step that has one.
        """
        measured = {s: loss for s, loss in losses.items() if loss is not None}
        kept = {*self.keep_steps, *steps[-self.max_to_keep :]}
        if measured:
            kept.add(min(measured, key=lambda step: (measured[step], step)))
        return [step for step in steps if step not in kept]

    def most_at_once(self, *, measured: bool) -> int:
        """Returns the number of checkpoints on disk when one more is being written."""
        return self.max_to_keep + len(self.keep_steps) + measured + 1
