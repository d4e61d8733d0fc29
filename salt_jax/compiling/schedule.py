"""A walk through a scheduled program: what takes time, and what nothing hides.

The TPU compiler's text has the instructions in the order in which they run. Work runs
one after another. What was started, a collective operation or a copy between memory
and chip, goes on beside the work that follows, one transfer after another, until its
end is waited for; a wait costs what the work in between did not cover.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from salt_jax.compiling.collectives import Transfer, transfer_of
from salt_jax.compiling.hlo import Instruction, Module
from salt_jax.compiling.links import Fabric
from salt_jax.compiling.shapes import arrays
from salt_jax.compiling.work import FREE, Work, Worker

PRODUCTS, OTHER, COPIES = "products", "other operations", "copies"


@dataclasses.dataclass(frozen=True)
class Item:
    """One reason for a program's time."""

    part: str  # PRODUCTS, OTHER, COPIES or the kind of a collective operation.
    across_slices: bool
    where: str  # The JAX operation that it comes from.


@dataclasses.dataclass
class Schedule:
    """The time of a program, by reason."""

    seconds: dict[Item, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )
    sending: float = 0.0  # Seconds of all collective operations, hidden or not.
    flops: float = 0.0
    memory_bytes: float = 0.0
    unknown: bool = False  # A rate is not published.

    def add(self, other: Schedule, times: int) -> None:
        """Adds a part that runs `times` times."""
        for item, seconds in other.seconds.items():
            self.seconds[item] += times * seconds
        self.sending += times * other.sending
        self.flops += times * other.flops
        self.memory_bytes += times * other.memory_bytes
        self.unknown |= other.unknown

    @property
    def total(self) -> float:
        """The seconds of the whole program."""
        return sum(self.seconds.values())


class _Clock:
    """The time in one computation, and the transfers on their way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.memory = 0.0  # Seconds that memory had for copies so far.
        self._last = {"links": 0.0, "network": 0.0, "memory": 0.0}
        self._ends: dict[str, tuple[str, float]] = {}

    def pass_by(self, seconds: float, memory_seconds: float = 0.0) -> None:
        """Work of some seconds, in which memory is busy for `memory_seconds`."""
        self.now += seconds
        self.memory += max(0.0, seconds - memory_seconds)

    def start(self, key: str, resource: str, seconds: float) -> None:
        """Starts a transfer, behind those that use the same resource."""
        begin = max(self._time(resource), self._last[resource])
        self._last[resource] = begin + seconds
        self._ends[key] = (resource, begin + seconds)

    def wait(self, key: str) -> float:
        """Returns the seconds until a transfer ends, and lets them pass."""
        resource, end = self._ends.pop(key, ("links", 0.0))
        seconds = max(0.0, end - self._time(resource))
        self.pass_by(seconds)
        return seconds

    def _time(self, resource: str) -> float:
        return self.memory if resource == "memory" else self.now


class Walk:
    """Walks through one module."""

    def __init__(self, module: Module, fabric: Fabric):
        self._module = module
        self._fabric = fabric
        self._worker = Worker(module)
        self._begun: dict[str, Item] = {}

    def of(self, computation: str) -> Schedule:
        """Returns the time of one run of a computation."""
        schedule, clock = Schedule(), _Clock()
        for instruction in self._module.computations.get(computation, {}).values():
            self._step(instruction, computation, schedule, clock)
        return schedule

    def _step(
        self, x: Instruction, computation: str, schedule: Schedule, clock: _Clock
    ) -> None:
        if x.opcode in ("while", "call", "conditional"):
            self._descend(x, computation, schedule, clock)
        elif x.opcode in FREE:
            return
        elif x.opcode.endswith("-done") or self._calls_to(x, "AsyncCollectiveDone"):
            self._wait(x, schedule, clock)
        elif self._is_start(x):
            self._start(x, computation, schedule, clock)
        else:
            self._work(x, computation, schedule, clock)

    def _is_start(self, x: Instruction) -> bool:
        if x.opcode.endswith("-start") or x.opcode in ("send", "recv"):
            return True
        return self._calls_to(x, "AsyncCollectiveStart")

    def _descend(
        self, x: Instruction, computation: str, schedule: Schedule, clock: _Clock
    ) -> None:
        """Adds a loop, a call, or the longest branch of a condition."""
        times = self._module.trips(computation, x)
        inside = max(map(self.of, x.called), key=lambda one: one.total)
        schedule.add(inside, times)
        clock.pass_by(times * inside.total)

    def _work(
        self, x: Instruction, computation: str, schedule: Schedule, clock: _Clock
    ) -> None:
        work = self._worker.work(x, computation)
        transfers = self._transfers(x, computation)
        if transfers and not work.flops and work.cycles is None:
            # Nothing runs beside an operation that has no start.
            key = f"{x.name}, at once"
            self._send(key, transfers, x, schedule, clock)
            schedule.seconds[self._begun[key]] += clock.wait(key)
            return
        schedule.flops += work.flops
        schedule.memory_bytes += work.bytes
        seconds, memory_seconds = self._seconds(work)
        part = PRODUCTS if work.flops else OTHER
        schedule.seconds[Item(part, False, x.op_name)] += seconds
        clock.pass_by(seconds, memory_seconds)

    def _seconds(self, work: Work) -> tuple[float, float]:
        chip = self._fabric.chip
        products = work.flops / chip.flops_per_second
        memory = work.bytes / chip.memory_bytes_per_second
        if work.cycles is None or chip.flops_per_cycle is None:
            return max(products, memory), memory
        estimated = work.cycles * chip.flops_per_cycle / chip.flops_per_second
        return max(estimated, products), min(memory, max(estimated, products))

    def _start(
        self, x: Instruction, computation: str, schedule: Schedule, clock: _Clock
    ) -> None:
        transfers = self._transfers(x, computation)
        if transfers:
            self._send(self._key(x), transfers, x, schedule, clock)
        elif x.opcode not in ("send", "recv"):
            moved = max((y.bytes for y in arrays(x.shape)[1:]), default=0.0)
            seconds = moved / self._fabric.chip.memory_bytes_per_second
            self._begun[x.name] = Item(COPIES, False, x.op_name)
            clock.start(x.name, "memory", seconds)

    def _send(
        self,
        key: str,
        transfers: Sequence[tuple[Transfer, Instruction]],
        x: Instruction,
        schedule: Schedule,
        clock: _Clock,
    ) -> None:
        seconds, resource = 0.0, "links"
        for transfer, within in transfers:
            taken = self._fabric.seconds(transfer, x.rest + within.rest)
            schedule.unknown |= taken is None
            seconds += taken or 0.0
            resource = "network" if transfer.across_slices else resource
        schedule.sending += seconds
        (first, within), *_ = transfers
        where = x.op_name or within.op_name
        self._begun[key] = Item(first.kind, resource == "network", where)
        clock.start(key, resource, seconds)

    def _wait(self, x: Instruction, schedule: Schedule, clock: _Clock) -> None:
        keys = [self._key(x)] if x.opcode == "fusion" else x.operands
        for key in keys:
            if key in self._begun:
                schedule.seconds[self._begun[key]] += clock.wait(key)

    def _inside(self, x: Instruction) -> list[tuple[str, Instruction]]:
        """Returns the instructions of a fusion, each with its computation."""
        found = []
        for name in x.called if x.opcode in ("fusion", "async-start") else ():
            for within in self._module.computations.get(name, {}).values():
                found += [(name, within), *self._inside(within)]
        return found

    def _calls_to(self, x: Instruction, target: str) -> bool:
        return x.opcode == "fusion" and any(
            f'custom_call_target="{target}"' in within.rest
            for _, within in self._inside(x)
        )

    def _transfers(
        self, x: Instruction, computation: str
    ) -> list[tuple[Transfer, Instruction]]:
        every = [(computation, x), *self._inside(x)]
        read = [
            (transfer_of(within, name, self._fabric.slice_of), within)
            for name, within in every
        ]
        return [(transfer, within) for transfer, within in read if transfer]

    def _key(self, x: Instruction) -> str:
        """Returns what the start and the end of a transfer have in common."""
        for _, within in self._inside(x):
            if channel := within.attribute("channel_id"):
                return f"channel {channel}"
        return x.name
