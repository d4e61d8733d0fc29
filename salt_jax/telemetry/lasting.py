"""Records of a run on their way to a place that may fail for a while.

A run is worth more than its records: a full disk or a lost network is a warning. What
could not be written waits in memory until it can be.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Generic, TypeVar

from absl import logging

Record = TypeVar("Record")

MOST_WAITING = 10_000  # Records.


class Lasting(Generic[Record]):
    """Hands records to a writer in order, those that it failed to write once more."""

    def __init__(
        self,
        place: str,
        write: Callable[[int, Record], object],
    ):
        """Writes to a place.

        Args:
          place: Its name, for messages.
          write: Writes the record of a step; an OSError is a failure of the place.
        """
        self._place, self._write = place, write
        self._waiting: collections.deque[tuple[int, Record]] = collections.deque()
        self._lost: list[int] = []  # Steps.
        self._is_failing = False

    def add(self, step: int, record: Record) -> None:
        """Writes the record of a step, after those that wait."""
        self._waiting.append((step, record))
        if len(self._waiting) > MOST_WAITING:
            self._lost.append(self._waiting.popleft()[0])
        self._write_waiting()

    def close(self) -> None:
        """Writes what waits, if that can be done now, and says what is lost."""
        self._write_waiting()
        self._lost += [step for step, _ in self._waiting]
        if self._lost:
            logging.warning(
                "%s lacks the %d records of steps %d to %d.",
                *(self._place, len(self._lost), min(self._lost), max(self._lost)),
            )

    def _write_waiting(self) -> None:
        late = len(self._waiting) - 1
        while self._waiting:
            try:
                self._write(*self._waiting[0])
            except OSError as error:
                if not self._is_failing:
                    logging.warning(
                        "%s cannot be written since step %d (%s). The run goes on, and "
                        "its records wait.",
                        *(self._place, self._waiting[0][0], error),
                    )
                self._is_failing = True
                return
            self._waiting.popleft()
        if self._is_failing:
            self._is_failing = False
            logging.warning(
                "%s is written again, with %d late records.", self._place, late
            )
