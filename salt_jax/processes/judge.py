"""Whether a job of several processes can go on: who is missing, silent or stuck.

Time is counted in ticks of the switchboard. A switchboard that was frozen itself has
made no ticks meanwhile, so it does not take its own absence for that of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from salt_jax.processes.messages import BEAT_SECONDS

JOIN_SECONDS = 300.0  # For the last process to join, since process 0 began.
SILENT_SECONDS = 40.0  # Without a message: frozen, or cut off.

TEMPORARY = 75  # Exit code: the same command may succeed.


@dataclasses.dataclass
class Seat:
    """What the switchboard knows of a process."""

    index: int
    host: str
    pid: int
    silent_ticks: int = 0
    notes: int = 0
    overdue: str = ""

    def __str__(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"


def missing(seats: Mapping[int, Seat], count: int) -> list[int]:
    """Returns the processes of a job of `count` that have not joined."""
    return [index for index in range(count) if index not in seats]


def never_joined(seats: Mapping[int, Seat], count: int, seconds: float) -> str:
    """Returns the cause when not all have joined in time."""
    absent = missing(seats, count)
    listed = ", ".join(map(str, absent[:10])) + ", ..." * (len(absent) > 10)
    which = f"process {listed} has" if len(absent) == 1 else f"processes {listed} have"
    return (
        f"{which} not joined within {seconds:.0f} s: {len(seats)} of {count} are here."
    )


def silent(seat: Seat, *, beat_seconds: float = BEAT_SECONDS) -> bool:
    """Returns whether nothing was heard of a process for `SILENT_SECONDS`."""
    return seat.silent_ticks * beat_seconds >= SILENT_SECONDS


def verdict(seats: Mapping[int, Seat]) -> str:
    """Returns which process keeps the others from going on, and how; empty if none.

    Of processes that are stuck, it is the one that made the least progress: the others
    wait for it.
    """
    for seat in seats.values():
        if silent(seat):
            return (
                f"{seat} has been silent for {SILENT_SECONDS:.0f} s: it is frozen, or "
                "its network is down"
            )
    stuck = [seat for seat in seats.values() if seat.overdue]
    if not stuck:
        return ""
    last = min(stuck, key=lambda seat: seat.notes)
    return f"{last} is stuck: {last.overdue}"


def vanished(seat: Seat) -> str:
    """Returns the cause when a process closed its connection without saying why."""
    return (
        f"{seat} ended without a word: killed (SIGKILL, or out of memory), or crashed"
    )
