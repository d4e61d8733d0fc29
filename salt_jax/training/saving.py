"""When a run saves its state, and what it does when that fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax.config import Experiment
from salt_jax.files.failures import DELAYS
from salt_jax.mesh.agreement import Agreement
from salt_jax.storage import free_space
from salt_jax.storage.checkpoint import Checkpointer, SaveError
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.retention import Retention
from salt_jax.telemetry.run_files import CHECKPOINTS
from salt_jax.training.program import Program

# Seconds from a failed save to the next attempt, for each failure in succession.
RETRY_AFTER = (0.0, 10.0, 60.0)


def check_room(program: Program, saved: SavedCheckpoints) -> None:
    """Checks that there is room for the checkpoints that a run keeps at once.

    Raises:
      ValueError: there is not.
    """
    experiment = program.experiment
    retention, measured = _retention(experiment), experiment.validation is not None
    count = retention.most_at_once(measured=measured) - len(saved.all_steps())
    free_space.check_room(saved.directory, program.abstract_state, max(count, 1))


@contextlib.contextmanager
def saver_of(experiment: Experiment, workdir: epath.Path) -> Iterator[Saver]:
    """Yields what saves a run in `workdir`, and waits for the last save at the end.

    All processes must call it.
    """
    folder = workdir / CHECKPOINTS
    with Checkpointer(folder, _retention(experiment)) as saved:
        yield Saver(saved, every_minutes=experiment.save_every_minutes)


def _retention(experiment: Experiment) -> Retention:
    return Retention(
        every=experiment.save_every,
        max_to_keep=experiment.max_to_keep,
        keep_steps=experiment.keep_steps,
    )


class Saver:
    """Saves at the steps that are due, by number or by time, and again after a failure.

    A save that fails in the background is noticed at the next step. Its state is gone
    by then, so the state of the current step is saved instead. After as many failures
    in succession as there are delays, and one more, the run ends: what would come is
    lost if nothing can be saved. With several processes the first failure ends it,
    because the others are still waiting for the one that failed.
    """

    def __init__(
        self,
        saved: Checkpointer,
        *,
        every_minutes: float | None = None,
        retry_after: Sequence[float] = RETRY_AFTER,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Prepares to save.

        Args:
          saved: The checkpoints of the run.
          every_minutes: The most minutes between two saves; None: only by steps.
          retry_after: Seconds to the next attempt, for each failure in succession.
          clock: Returns the time [s].
          sleep: Waits for a number of seconds.
        """
        self._saved, self._every_minutes = saved, every_minutes
        self._retry_after, self._clock, self._sleep = retry_after, clock, sleep
        self._agreement = Agreement()
        self._last, self._failures = clock(), 0
        self._retry_at: float | None = None
        self._pending = False  # Whether a save goes on in the background.
        self._stale = False  # Whether the next answer was asked for before a save.

    def is_due(self, step: int) -> bool:
        """Returns whether to save after `step`; the same on every process.

        All processes must call it after every step.

        Raises:
          OSError: saving failed too often in succession.
        """
        error = self._error_of_last_save()
        seconds = self._clock() - self._last
        late = self._every_minutes is not None and seconds >= self._every_minutes * 60
        failed, late = self._agreement.any(error is not None, late)
        late, self._stale = late and not self._stale, False
        if failed:
            self._failed(error or SaveError("Another process could not save."))
        if self._retry_at is not None and self._clock() >= self._retry_at:
            return True
        return late or self._saved.is_due(step)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Begins to save `state`; a failure counts, and raises as in `is_due`."""
        self._last, self._retry_at = self._clock(), None
        self._stale = jax.process_count() > 1
        try:
            self._saved.begin(step, state, meta, metrics)
            self._pending = True
        except SaveError as error:
            self._failed(error)

    def save_last(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Saves the state that the run ends with; one process tries a few times.

        Raises:
          OSError: every attempt failed.
        """
        for delay in (*DELAYS, None):
            try:
                self._saved.save_now(step, state, meta, metrics)
                return
            except SaveError as error:
                if delay is None or jax.process_count() > 1:
                    raise _fatal(error, 1 + len(DELAYS)) from error
                logging.warning("%s Trying again in %g s.", error, delay)
                self._sleep(delay)

    def _error_of_last_save(self) -> SaveError | None:
        try:
            self._saved.poll()
        except SaveError as error:
            return error
        if self._pending and not self._saved.is_saving():
            self._pending, self._failures = False, 0
        return None

    def _failed(self, error: SaveError) -> None:
        self._pending = False
        self._failures += 1
        if jax.process_count() > 1 or self._failures > len(self._retry_after):
            raise _fatal(error, self._failures) from error
        delay = self._retry_after[self._failures - 1]
        self._retry_at = self._clock() + delay
        when = f"in {delay:g} s" if delay else "after the next step"
        logging.warning("%s Training goes on; trying again %s.", error, when)


def _fatal(error: SaveError, attempts: int) -> SaveError:
    tried = f"Saving was tried {attempts} times. " if attempts > 1 else ""
    return SaveError(
        f"{error} {tried}The run ends with what is saved: make sure that the storage "
        "works and has room, and run the same command to resume."
    )
