"""Being asked to stop: SIGTERM is noted, and acted on between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class PreemptedError(Exception):
    """The run was asked to stop, and has saved what it had."""


class PreemptionGuard:
    """Notes SIGTERM while it is entered, instead of dying of it."""

    def __enter__(self) -> PreemptionGuard:
        self._requested = False
        # With several processes, JAX's coordination service takes the signal, and
        # makes all of them agree on the step to stop at.
        self._previous = (
            signal.signal(signal.SIGTERM, self._note)
            if jax.process_count() == 1
            else None
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Returns whether to stop after `step`: the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True
