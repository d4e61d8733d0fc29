"""The wall-clock time of a run, by what it was spent on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from salt_jax.processes import job

STEPS, OTHER, LOST = "steps", "other", "lost"
# "restore" counts loading parameters from a checkpoint or an export.
PARTS = (STEPS, "compile", "restore", "validation", "save", OTHER, LOST)


class TimeSheet:
    """Seconds by part, summed over all attempts of a run.

    Every moment since the process began counts once: for the innermost `spending`, or
    for `OTHER` outside of any. Time between attempts is not counted.
    """

    def __init__(
        self,
        began: float,
        earlier: Mapping[str, float],
        *,
        recorded: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Adds this attempt to the earlier ones.

        Args:
          began: The clock's reading when this process began [s].
          earlier: The `totals` in the checkpoint that is resumed; empty without one.
          recorded: The total in the last metrics record of any attempt [s]. The excess
            over `earlier` is lost: those steps are made again.
          clock: Returns the time [s].
        """
        self._spent = dict.fromkeys(PARTS, 0.0) | dict(earlier)
        self.newly_lost = max(recorded - sum(self._spent.values()), 0.0)
        self._spent[LOST] += self.newly_lost
        self.earlier = sum(self._spent.values())  # Of all attempts before this one.
        self._clock = clock
        self._part, self._since = OTHER, began

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Counts the time inside the block for `part`, one of `PARTS`."""
        outer = self._part
        self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def totals(self) -> dict[str, float]:
        """Returns the seconds of every part up to now; they sum to the total time."""
        self._turn_to(self._part)
        return dict(self._spent)

    def record(self) -> dict[str, float]:
        """Returns `totals` under the names of the metrics.

        "seconds" is the time in steps, "wall_seconds" the total, "goodput" their ratio;
        "save_share" is the time steps waited for saving, by the time in steps.
        """
        totals = self.totals()
        wall = sum(totals.values())
        others = {f"{part}_seconds": x for part, x in totals.items() if part != STEPS}
        return {
            "seconds": totals[STEPS],
            "wall_seconds": wall,
            "goodput": totals[STEPS] / max(wall, 1e-9),
            "save_share": totals["save"] / max(totals[STEPS], 1e-9),
        } | others

    def _turn_to(self, part: str) -> None:
        job.turn(part)
        now = self._clock()
        self._spent[self._part] += now - self._since
        self._part, self._since = part, now
