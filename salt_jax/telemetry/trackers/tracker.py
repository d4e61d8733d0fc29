"""A tracker gets the metrics of a run on a thread of its own, and never stops the run.

A service may be slow, refuse or be gone: training is worth more than its record, which
metrics.jsonl has anyway.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath

from salt_jax.files.records import read_record, write_record

TRACKERS_FILE = "trackers.json"  # The identity of the run at each tracker.
_MOST_WAITING = 1000  # Records; a service that is slower loses some.
_MOST_FAILURES = 10  # In a row.
_CLOSING_SECONDS = 20.0
_KEEPING = threading.Lock()  # Trackers begin at once, each on its thread.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run, as trackers show it."""

    workdir: epath.Path
    experiment: Mapping[str, Any]  # As JSON types.

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.workdir.name

    def identity(self, tracker: str) -> str | None:
        """Returns what `tracker` calls this run; None before its first attempt.

        Raises:
          ValueError: the file of identities is damaged.
        """
        return self._identities().get(tracker)

    def keep_identity(self, tracker: str, identity: str) -> None:
        """Notes what `tracker` calls this run, so that later attempts continue it."""
        with _KEEPING:
            found = self._identities() | {tracker: identity}
            write_record(self.workdir / TRACKERS_FILE, dict(found))

    def _identities(self) -> dict[str, str]:
        path = self.workdir / TRACKERS_FILE
        if not path.exists():
            return {}
        return read_record(
            path, dict[str, str], remedy="remove it, and the trackers begin new runs"
        )


class Tracker(Protocol):
    """A service that shows metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step."""

    def close(self) -> None:
        """Sends what is left."""


class InBackground:
    """A tracker on a thread, whose failures are warnings."""

    def __init__(self, name: str, begin: Callable[[], Tracker]):
        """Begins a tracker on its thread.

        Args:
          name: Its name, for warnings.
          begin: Begins it; called on the thread.
        """
        self._name, self._begin = name, begin
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands over the metrics of a step, without waiting."""
        try:
            self._waiting.put_nowait((step, dict(values)))
        except queue.Full:
            self._lost += 1
            if self._lost == 1:
                self._warn("is too slow, and loses records from step %d on", step)

    def close(self) -> None:
        """Waits a little for what is left to be sent."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSING_SECONDS)
        self._thread.join(_CLOSING_SECONDS)
        if self._thread.is_alive():
            self._warn("has not sent everything within %d s", int(_CLOSING_SECONDS))

    def _run(self) -> None:
        try:
            tracker = self._begin()
        except Exception as error:
            self._warn("cannot begin (%s): the run goes on without it", _said(error))
            self._drop_all()
            return
        failures = 0
        while (record := self._waiting.get()) is not None:
            try:
                tracker.log(*record)
                failures = 0
            except Exception as error:
                failures += 1
                if failures == 1:
                    self._warn("failed at step %d (%s)", record[0], _said(error))
                if failures == _MOST_FAILURES:
                    self._warn("failed %d times: the run goes on without it", failures)
                    self._drop_all()
                    break
        try:
            tracker.close()
        except Exception as error:
            self._warn("did not end well (%s)", _said(error))

    def _drop_all(self) -> None:
        while self._waiting.get() is not None:
            pass

    def _warn(self, text: str, *values: object) -> None:
        logging.warning(f"The tracker %s {text}.", self._name, *values)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
