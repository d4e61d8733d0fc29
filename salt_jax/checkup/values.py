"""What is known of a check before it runs, and the lines that it yields."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

# Verdicts of a line. Only FAILED makes a check fail: what is below an aim is slower
# than was hoped for, and right.
PASSED, FAILED, MEASURED = "passed", "failed", "measured"
BELOW, UNDONE = "below aim", "not done"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that was compared or measured."""

    what: str
    verdict: str
    measured: float | str | None = None
    unit: str = ""
    expected: str = ""
    why: str = ""  # Of a tolerance, an aim, or of what could not be done.


def at_most(what: str, value: float, limit: float, why: str = "", **more: Any) -> Line:
    """Returns a line that fails if a value exceeds its limit, or is no number."""
    verdict = PASSED if float(value) <= limit else FAILED
    return _bounded(what, value, f"at most {limit:.3g}", verdict, why, **more)


def at_least(what: str, value: float, limit: float, why: str = "", **more: Any) -> Line:
    """Returns a line that fails if a value is below its limit, or is no number."""
    verdict = PASSED if float(value) >= limit else FAILED
    return _bounded(what, value, f"at least {limit:.3g}", verdict, why, **more)


def aim(
    what: str, value: float, low: float, high: float, why: str, **more: Any
) -> Line:
    """Returns a line with a value that should be from `low` to `high`; it cannot fail.

    A value that is no number does.
    """
    ends = [f"at least {low:.3g}"] * (low > -math.inf)
    ends += [f"at most {high:.3g}"] * (high < math.inf)
    verdict = PASSED if low <= float(value) <= high else BELOW
    if not math.isfinite(value):
        verdict = FAILED
    return _bounded(what, value, "aim: " + " and ".join(ends), verdict, why, **more)


def measured(what: str, value: float | str, unit: str = "", why: str = "") -> Line:
    """Returns a line with a value of which nothing is expected."""
    value = value if isinstance(value, str) else float(value)
    return Line(what=what, measured=value, unit=unit, verdict=MEASURED, why=why)


def holds(what: str, is_so: bool, found: str, expected: str, why: str = "") -> Line:
    """Returns a line that fails if something is not so."""
    verdict = PASSED if is_so else FAILED
    return Line(what=what, measured=found, expected=expected, verdict=verdict, why=why)


def undone(what: str, why: str) -> Line:
    """Returns a line about what cannot be done on this device."""
    return Line(what=what, verdict=UNDONE, why=why)


def _bounded(
    what: str, value: float, expected: str, verdict: str, why: str, unit: str = ""
) -> Line:
    return Line(
        what=what,
        measured=float(value),
        unit=unit,
        expected=expected,
        verdict=verdict,
        why=why,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """The devices of this host, as JAX named them to the first check."""

    platform: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a check is given."""

    folder: pathlib.Path  # Of all checks; files of one are read by later ones.
    small: bool  # Whether sizes are those of a CPU.
    device: Device

    @property
    def is_cpu(self) -> bool:
        """Whether there is no accelerator."""
        return self.device.platform == "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One item of the list: a function that yields lines, and its time."""

    name: str
    title: str
    function: str  # "module:function", called with a `Setting`.
    seconds: float  # The most it may take, the start of its process included.
    # Whether it needs a process of its own: it starts others that need the device, or
    # reads the highest use of memory so far.
    alone: bool = False
    needs: tuple[str, ...] = ()  # The checks whose files it reads.

    def open(self) -> Callable[[Setting], Iterator[Line]]:
        """Returns the function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)
