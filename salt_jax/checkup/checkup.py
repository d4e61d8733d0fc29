"""All checks of an accelerator, with one JSON file and one page of the results."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from salt_jax.checkup import page
from salt_jax.checkup.child import device_in
from salt_jax.checkup.environment import environment_for
from salt_jax.checkup.plan import CHECKS, DEVICE
from salt_jax.checkup.running import Result, Runner
from salt_jax.checkup.values import PASSED, Check
from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.telemetry import versions

JSON, PAGE = "check.json", "check.html"


class NoAcceleratorError(ValueError):
    """There is nothing to check here."""


def check_accelerator(
    folder: pathlib.Path,
    *,
    seconds: float,
    small: bool,
    command: str,
    checks: Sequence[Check] = CHECKS,
    progress: Callable[[str], None] = print,
) -> bool:
    """Runs checks of this host's devices; returns whether all of them passed.

    Both files are written after each check, so that a machine that dies leaves what was
    measured.

    Args:
      folder: Where to write.
      seconds: The time for all checks. What is not reached by then is said.
      small: Whether to use sizes for a CPU.
      command: The command line, for the page.
      checks: What to run, after a look at the devices.
      progress: Is called with a line for each check.

    Raises:
      NoAcceleratorError: there is neither a GPU nor a TPU, and `small` is not set.
      ValueError: the devices of this host cannot be told from those of others.
      OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    environment, host = environment_for(folder, os.environ)
    written = _Written(folder, command, seconds, small, host, [DEVICE, *checks])

    def give(result: Result) -> None:
        written.add(result)
        progress(page.line_of(result))

    runner = Runner(
        folder, small=small, seconds=seconds, environment=environment, on_result=give
    )
    progress(f"{DEVICE.title}.")
    (folder / "device.json").unlink(missing_ok=True)
    runner.run([DEVICE])
    device = device_in(folder)
    if device.platform == "cpu" and not small:
        raise NoAcceleratorError(
            "Found no GPU and no TPU, only a CPU: run this where one is, or try the "
            "check itself with --small."
        )
    if device.count:
        runner.run(checks)
    written.finish()
    return written.has_passed


class _Written:
    """The results so far, and both files."""

    def __init__(
        self,
        folder: pathlib.Path,
        command: str,
        seconds: float,
        small: bool,
        host: str,
        checks: Sequence[Check],
    ):
        self._folder, self._began = folder, time.monotonic()
        self._checks = checks
        self._results: list[Result] = []
        self._about = {
            "command": command,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "budget_seconds": seconds,
            "small": small,
            "host": host,
            "versions": versions.of_packages()
            | {name: versions.of(name) for name in ("libtpu", "jax-cuda12-plugin")},
            "code": versions.of_code(),
        }

    @property
    def has_passed(self) -> bool:
        """Whether every check has run, and passed."""
        passed = [result for result in self._results if result.state == PASSED]
        return len(passed) == len(self._checks)

    def add(self, result: Result) -> None:
        """Adds a result and writes both files."""
        self._results.append(result)
        self._write(is_finished=False)

    def finish(self) -> None:
        """Writes both files for the last time."""
        self._write(is_finished=True)

    def _write(self, *, is_finished: bool) -> None:
        fields: dict[str, Any] = self._about | {
            "device": dataclasses.asdict(device_in(self._folder)),
            "seconds": time.monotonic() - self._began,
            "finished": is_finished,
            "passed": self.has_passed if is_finished else None,
            "checks": [dataclasses.asdict(result) for result in self._results],
            "waiting": [x.name for x in self._checks[len(self._results) :]],
        }
        write_record(self._folder / JSON, fields)
        write_file(self._folder / PAGE, page.render(fields, self._results))
