"""Signals that ask a run to stop.

Before the first step nothing is worth saving: a thread ends the process at once, even
while XLA compiles, when Python's own handlers wait for the main thread. From the first
step on a signal is noted, and the loop saves and stops after its step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

STOPPED = 75  # Stopped early: the same command resumes. EX_TEMPFAIL of sysexits.h.
INTERRUPTED = 130  # From the keyboard.

# From schedulers; from a terminal that closes; the warnings of Slurm and of submitit;
# from the keyboard.
SIGNALS = (
    *(signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    signal.SIGINT,
)


class PreemptedError(Exception):
    """The run was asked to stop, and its state is saved."""

    def __init__(self, message: str, exit_code: int = STOPPED):
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """A context manager that takes the signals in `SIGNALS`.

    A signal that was ignored stays ignored, so that `nohup` works.
    """

    def __init__(self) -> None:
        self._is_stepping = False
        self._noted: list[int] = []
        self._on_end: list[Callable[[], object]] = []

    def __enter__(self) -> StopSignals:
        self._before = {
            signum: before
            for signum in SIGNALS
            if (before := signal.getsignal(signum)) is not signal.SIG_IGN
        }
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        self.take()
        return self

    def take(self) -> None:
        """Takes the signals, again if something else has taken one of them since."""
        for signum in self._before:
            signal.signal(signum, self._note)
            signal.siginterrupt(signum, False)  # Libraries may not expect EINTR.

    def __exit__(self, *error: object) -> None:
        for signum, before in self._before.items():
            # None: the previous handler was not installed from Python.
            signal.signal(signum, before or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write)  # Ends the thread.

    def at_end(self, action: Callable[[], object]) -> None:
        """Adds what is done before a signal ends the process, before the first step."""
        self._on_end.append(action)

    def begin_steps(self) -> None:
        """Notes signals from now on, instead of ending the process."""
        self._is_stepping = True

    @property
    def requested(self) -> bool:
        """Whether a signal was noted."""
        return bool(self._noted)

    @property
    def exit_code(self) -> int:
        """The exit code of a run that stops because of the signal noted first."""
        return _code(self._noted[0]) if self._noted else STOPPED

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noted.append(signum)

    def _watch(self, read: int) -> None:
        """Ends the process if a signal asks for it; the pipe has a byte a signal."""
        interrupts = 0
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                signum = byte[0]
                if signum not in self._before:
                    continue
                interrupts += signum == signal.SIGINT
                if not self._is_stepping:
                    self._end(signum, "before the first step: nothing new to save")
                elif interrupts > 1:
                    self._end(signum, "twice: nothing since the last save is kept")
                elif interrupts:
                    _say("Saving after this step; Ctrl-C again ends it without saving.")

    def _end(self, signum: int, why: str) -> None:
        _say(f"Stopped by {signal.Signals(signum).name} {why}.")
        for action in self._on_end:
            with contextlib.suppress(Exception):
                action()
        os._exit(_code(signum))


def _code(signum: int) -> int:
    return INTERRUPTED if signum == signal.SIGINT else STOPPED


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"salt_jax: {line}", file=sys.stderr, flush=True)
