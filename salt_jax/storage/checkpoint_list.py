"""A list of the checkpoints of a run: size, stage, held-out loss, and whether whole."""

from __future__ import annotations

import dataclasses

from etils import epath

from salt_jax.storage.checkpoint_folder import BEST_BY
from salt_jax.storage.checkpoint_reading import SavedCheckpoints

WHOLE, INDEX = "whole", "index read"
MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """One checkpoint."""

    step: int
    bytes: int
    state: str  # WHOLE, INDEX, or what is damaged.
    stage: str | None = None
    val_loss: float | None = None

    @property
    def is_damaged(self) -> bool:
        """Whether it cannot be restored."""
        return self.state not in (WHOLE, INDEX)


def list_checkpoints(directory: epath.PathLike, *, quick: bool) -> list[Listed]:
    """Returns the checkpoints in a directory; training may go on meanwhile.

    Args:
      directory: The directory of the checkpoints.
      quick: Whether to read only records and indices, and not the arrays.

    Raises:
      FileNotFoundError: there is no such directory.
      OSError: the storage failed.
    """
    saved = SavedCheckpoints.of(directory)
    found = [_listed(saved, step, quick=quick) for step in saved.all_steps()]
    return [listed for listed in found if listed is not None]


def _listed(saved: SavedCheckpoints, step: int, *, quick: bool) -> Listed | None:
    """Returns the checkpoint of `step`, or None if it is deleted meanwhile."""
    try:
        size = _bytes(saved.path(step))
        record = saved.record(step)
        listed = Listed(
            step=step,
            bytes=size,
            state=INDEX if quick else WHOLE,
            stage=record.meta.get("stage"),
            val_loss=record.metrics.get(BEST_BY),
        )
    except (ValueError, FileNotFoundError) as error:
        if step not in saved.all_steps():
            return None
        return Listed(step=step, bytes=_bytes(saved.path(step)), state=str(error))
    try:
        saved.verify_index(step) if quick else saved.verify_arrays(step)
    except (ValueError, FileNotFoundError) as error:
        if step not in saved.all_steps():
            return None
        return dataclasses.replace(listed, state=str(error))
    return listed


def table(checkpoints: list[Listed]) -> str:
    """Returns the list as text, with the latest and the best named."""
    measured = [x for x in checkpoints if x.val_loss is not None]
    best = min(measured, key=lambda x: (x.val_loss, x.step), default=None)
    rows = [("step", "MiB", "stage", "val_loss", "", "arrays")]
    for listed in checkpoints:
        names = ["latest"] * (listed is checkpoints[-1]) + ["best"] * (listed is best)
        loss = "" if listed.val_loss is None else f"{listed.val_loss:.4f}"
        size = f"{listed.bytes / MIB:,.1f}"
        cells = (str(listed.step), size, listed.stage or "", loss, ", ".join(names))
        rows.append((*cells, listed.state))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.rjust(width) if i in (0, 1, 3) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, (*widths, 0), strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _bytes(path: epath.Path) -> int:
    if not path.is_dir():
        return path.stat().length
    return sum(_bytes(inner) for inner in path.iterdir())
