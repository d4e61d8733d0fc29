"""Where the wall-clock time of a run goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

STEPS, OTHER, LOST = "steps", "other", "lost"
# Reading parameters counts as restoring, whether of a checkpoint or of an export.
PARTS = (STEPS, "compile", "restore", "validation", "save", OTHER, LOST)


class TimeSheet:
    """Seconds by what they were spent on, over all attempts of a run.

    Each moment since the process began counts once, for the innermost `spending`, or as
    `OTHER` outside of any. Time between attempts, with no process, is not known here.
    """

    def __init__(
        self, began: float, earlier: Mapping[str, float], *, recorded: float = 0.0
    ):
        """Goes on from earlier attempts.

        Args:
          began: `time.monotonic()` when this process began.
          earlier: `totals` in the checkpoint that is gone on from; empty if there is
            none.
          recorded: How much time had been spent at the last record of any attempt. What
            is more than `earlier` was lost: steps that have to be made again.
        """
        self._spent = dict.fromkeys(PARTS, 0.0) | dict(earlier)
        self._spent[LOST] += max(recorded - sum(self._spent.values()), 0.0)
        self._part, self._since = OTHER, began

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Counts the time until it is left as spent on `part`, one of `PARTS`."""
        outer = self._part
        self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def totals(self) -> dict[str, float]:
        """Returns the seconds of every part up to now; their sum is all there were."""
        self._turn_to(self._part)
        return dict(self._spent)

    def record(self) -> dict[str, float]:
        """Returns `totals` by the names they have in the metrics.

        "seconds" are those in steps; "goodput" is their share of all.
        """
        totals = self.totals()
        wall = sum(totals.values())
        others = {f"{part}_seconds": x for part, x in totals.items() if part != STEPS}
        return {
            "seconds": totals[STEPS],
            "wall_seconds": wall,
            "goodput": totals[STEPS] / max(wall, 1e-9),
        } | others

    def _turn_to(self, part: str) -> None:
        now = time.monotonic()
        self._spent[self._part] += now - self._since
        self._part, self._since = part, now
