"""Processes that run one command each, with what they print in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

from etils import epath

from salt_jax.files.writing import is_local

STOPPED = 75  # The exit code of a command that saved: the same command resumes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit: int  # Negative: ended by this signal.
    seconds: float
    last_line: str  # That it printed.


class Children:
    """The commands that run now, to which signals are passed on."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._is_stopping = False

    def signal(self, signum: int) -> None:
        """Passes a signal on to what runs; nothing runs again from now on."""
        self._is_stopping = True
        for child in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signum)

    def run(self, command: Sequence[str], log: epath.Path, lock: int | None) -> Ended:
        """Runs a command, and once more if it was stopped but not through `signal`.

        Args:
          command: Its words.
          log: What it prints is appended to this file.
          lock: A descriptor that it inherits: if this process is killed, the command
            still holds the lock.
        """
        began = time.monotonic()
        with _appended(log) as path:
            code = self._run_once(command, path, lock)
            if code == STOPPED and not self._is_stopping:
                code = self._run_once(command, path, lock)
            return Ended(
                exit=code,
                seconds=time.monotonic() - began,
                last_line=_last_line(path),
            )

    def _run_once(
        self, command: Sequence[str], log: pathlib.Path, lock: int | None
    ) -> int:
        # In a session of its own, so that Ctrl-C reaches it once: through `signal`.
        with open(log, "ab") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        self._running.add(child)
        try:
            if self._is_stopping:  # A signal that came before it was in the set.
                child.terminate()
            return child.wait()
        finally:
            self._running.discard(child)


@contextlib.contextmanager
def _appended(log: epath.Path) -> Iterator[pathlib.Path]:
    """Yields a local file to append to; that of a bucket is copied there at the end."""
    if is_local(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        yield pathlib.Path(log)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / log.name
        path.write_bytes(log.read_bytes() if log.exists() else b"")
        yield path
        log.write_bytes(path.read_bytes())


def _last_line(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
