"""Whether the main thread of this process makes progress, by what it is doing."""

from __future__ import annotations

import pathlib
import sys
import threading
import time
from collections.abc import Callable

import salt_jax

STEPS = "steps"
# Seconds without a sign of progress, by part of `telemetry.time_sheet`. Compiling has
# none, and takes minutes on a pod.
ALLOWED_SECONDS = {"compile": 4 * 3600.0, "restore": 3600.0, "save": 3600.0}
OTHERWISE_SECONDS = 2 * 3600.0
FIRST_STEP_SECONDS = 1800.0  # It may load programs onto the devices.
STEP_SECONDS, STEPS_ALLOWED = 180.0, 20.0  # More than this many of the longest steps.


class Pace:
    """Signs of progress: a part that begins, a step, an update of a progress line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts the clock."""
        self._clock = clock
        self.notes = 0
        self._part, self._last, self._longest = "start", clock(), 0.0

    def turn(self, part: str) -> None:
        """Notes that the main thread turned to another part of its work."""
        self._part = part
        self.notes, self._last = self.notes + 1, self._clock()

    def note(self) -> None:
        """Notes progress within a part."""
        now = self._clock()
        if self._part == STEPS:
            self._longest = max(self._longest, now - self._last)
        self.notes, self._last = self.notes + 1, now

    def overdue(self) -> str:
        """Returns what the main thread is stuck in; empty while it is not."""
        waited = self._clock() - self._last
        if waited <= self.allowed():
            return ""
        return (
            f"no progress for {waited:.0f} s in {self._part!r}, where "
            f"{self.allowed():.0f} s are allowed, at {_place()}"
        )

    def allowed(self) -> float:
        """Returns how long the present part may go on without a sign [s]."""
        if self._part != STEPS:
            return ALLOWED_SECONDS.get(self._part, OTHERWISE_SECONDS)
        if self._longest == 0.0:
            return FIRST_STEP_SECONDS
        return STEP_SECONDS + STEPS_ALLOWED * self._longest


def _place() -> str:
    """Returns where the main thread is: the innermost line of this package."""
    root = pathlib.Path(salt_jax.__path__[0])
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        path = pathlib.Path(frame.f_code.co_filename)
        if path.is_relative_to(root):
            return f"{path.relative_to(root.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return "no line of salt_jax"
