"""Checks in processes of their own, one after another, within a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from salt_jax.checkup.protocol import Heard, file_of, heard
from salt_jax.checkup.values import FAILED, PASSED, Check, Line

CRASHED, TIMED_OUT, NOT_REACHED = "crashed", "timed out", "not reached"
_CHILD = "salt_jax.checkup.child"
_BETWEEN_LOOKS = 0.05  # Seconds.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How a check ended, and what it measured until then."""

    name: str
    title: str
    state: str  # passed, failed, crashed, timed out or not reached.
    seconds: float = 0.0
    why: str = ""  # Of a state that is none of the first two.
    lines: Sequence[Line] = ()


class Runner:
    """Runs checks; nothing of JAX happens in this process."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        small: bool,
        seconds: float,
        environment: Mapping[str, str],
        on_result: Callable[[Result], None],
    ):
        """Takes the folder, the time for all checks and the processes' variables."""
        self._folder, self._small = folder, small
        self._end = time.monotonic() + seconds
        self._environment = dict(environment)
        self._on_result = on_result
        self._states: dict[str, str] = {}

    def run(self, checks: Sequence[Check]) -> None:
        """Runs `checks` in order and gives each result to `on_result`."""
        for check in checks:
            file_of(self._folder, check.name).unlink(missing_ok=True)
        waiting = list(checks)
        while waiting:
            group = self._next_group(waiting)
            if group:
                with self._process(group) as process:
                    for check in list(group):
                        waiting.remove(check)
                        if not self._watch(check, process):
                            break

    def _next_group(self, waiting: list[Check]) -> list[Check]:
        """Returns the checks for the next process; takes what cannot run off the list.

        They are one that runs alone, or all up to the next one that does.
        """
        group: list[Check] = []
        for check in list(waiting):
            if why := self._obstacle(check, group):
                if group:
                    break
                waiting.remove(check)
                self._give(check, NOT_REACHED, why=why)
            elif check.alone:
                return group or [check]
            else:
                group.append(check)
        return group

    def _obstacle(self, check: Check, group: Sequence[Check]) -> str:
        if time.monotonic() >= self._end:
            return "the time for all checks was over"
        soon = {each.name for each in group}
        for name in check.needs:
            if name not in soon and self._states.get(name) not in (PASSED, FAILED):
                return f"it needs the files of {name!r}, which did not finish"
        return ""

    @contextlib.contextmanager
    def _process(self, group: Sequence[Check]) -> Iterator[subprocess.Popen]:
        """Yields a process that runs `group`; it is gone when the context ends."""
        log = self._folder / "checks" / f"{group[0].name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        size = "small" if self._small else "full"
        words = [f"{check.name}={check.function}" for check in group]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(self._folder), size, *words],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._log = log
        try:
            yield process
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)  # Lets go of the device on its own.
        finally:
            _kill(process)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _watch(self, check: Check, process: subprocess.Popen) -> bool:
        """Waits for a check to end; returns whether its process may go on."""
        began = time.monotonic()
        end = min(began + check.seconds, self._end)
        while True:
            has_exited = process.poll() is not None
            said = heard(self._folder, check.name)
            seconds = time.monotonic() - began
            if said.has_ended:
                self._give_end(check, said, seconds)
                return said.error is None
            if has_exited or time.monotonic() >= end:
                why = f"{seconds:.0f} s were over"
                if has_exited:
                    why = f"its process ended with exit code {process.returncode}"
                why += f"; the log ends: {_last_line(self._log)}"
                _kill(process)
                state = CRASHED if has_exited else TIMED_OUT
                self._give(check, state, seconds, why, said.lines)
                return False
            time.sleep(_BETWEEN_LOOKS)

    def _give_end(self, check: Check, said: Heard, seconds: float) -> None:
        if said.error is not None:
            self._give(check, CRASHED, seconds, said.error, said.lines)
            return
        failed = any(line.verdict == FAILED for line in said.lines)
        state = FAILED if failed or not said.lines else PASSED
        why = "" if said.lines else "it measured nothing"
        self._give(check, state, seconds, why, said.lines)

    def _give(
        self,
        check: Check,
        state: str,
        seconds: float = 0.0,
        why: str = "",
        lines: Sequence[Line] = (),
    ) -> None:
        self._states[check.name] = state
        self._on_result(
            Result(
                name=check.name,
                title=check.title,
                state=state,
                seconds=seconds,
                why=why,
                lines=lines,
            )
        )


def _kill(process: subprocess.Popen) -> None:
    """Ends a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_bytes()[-4096:].decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "(nothing)")
