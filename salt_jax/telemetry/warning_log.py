"""The last warnings of a run, in a file of its directory, for whoever looks later."""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Self, TypedDict

from etils import epath

from salt_jax.files.records import read_record, write_record
from salt_jax.telemetry.run_files import WARNINGS_FILE

KEPT = 100  # Warnings.
_MOST_CHARACTERS = 1000  # Of one warning.
_SECONDS = 1.0  # Between two writes.


class Warned(TypedDict):
    """A warning, or the error that ended the run."""

    time: float  # Seconds since 1970.
    level: str
    message: str


class _Warnings(TypedDict):
    warnings: list[Warned]


class WarningLog(logging.Handler):
    """Keeps the last warnings of a run, and the error that ends it.

    A context manager. Nothing is written before `begin`, so that a command that is
    refused leaves the run as it was. A file that cannot be written is no reason to
    stop: the warnings are on standard error too.
    """

    def __init__(
        self, workdir: epath.PathLike, *, clock: Callable[[], float] = time.time
    ):
        super().__init__(logging.WARNING)
        self._path, self._clock = epath.Path(workdir) / WARNINGS_FILE, clock
        self._found: collections.deque[Warned] = collections.deque(maxlen=KEPT)
        self._has_begun, self._written_at, self._is_due = False, -_SECONDS, False

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: object
    ) -> None:
        logging.getLogger().removeHandler(self)
        if error is not None:
            self._add("ERROR", f"{type(error).__name__}: {error}")
        self._write(at_once=True)

    def begin(self) -> None:
        """Begins to write, after the warnings of earlier attempts."""
        with contextlib.suppress(OSError, ValueError):
            self._found.extendleft(reversed(read_warnings(self._path.parent)))
        self._has_begun = True
        self._write(at_once=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a warning, and writes them all unless they were written just now."""
        self._add(record.levelname, record.getMessage())
        self._write(at_once=False)

    def _add(self, level: str, message: str) -> None:
        text = " ".join(message.split())[:_MOST_CHARACTERS]
        self._found.append(Warned(time=self._clock(), level=level, message=text))
        self._is_due = True

    def _write(self, *, at_once: bool) -> None:
        soon = self._clock() < self._written_at + _SECONDS
        if not (self._has_begun and self._is_due) or (soon and not at_once):
            return
        self._written_at = self._clock()
        # Whole, because a bucket cannot append.
        with contextlib.suppress(Exception):
            write_record(self._path, {"warnings": [{**x} for x in self._found]})
            self._is_due = False


def read_warnings(workdir: epath.PathLike) -> list[Warned]:
    """Returns the last warnings of a run, the earliest first.

    Raises:
      ValueError: the file is damaged.
      OSError: it cannot be read.
    """
    path = epath.Path(workdir) / WARNINGS_FILE
    if not path.exists():
        return []
    remedy = "remove it; it has only warnings"
    return read_record(path, _Warnings, remedy=remedy)["warnings"]
