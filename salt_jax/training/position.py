"""What a run has read and computed by a step: facts that a resume does not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """The rows, tokens and model FLOPs of the first `step` steps.

    They are counted as the steps are made: batch sizes may change, batches may be left
    out, and stages may end early. So a checkpoint holds them.
    """

    step: int = 0
    rows: int = 0  # The place in the data: those of batches left out count.
    tokens: int = 0  # Read.
    flops: int = 0  # Model FLOPs, so without rematerialization.

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Position:
        """Returns the position in the `meta` of a checkpoint.

        Without one it is the start.
        """
        return cls(**meta.get("position", {}))

    def to_meta(self) -> dict[str, int]:
        """Returns what `of` reads."""
        return dataclasses.asdict(self)
