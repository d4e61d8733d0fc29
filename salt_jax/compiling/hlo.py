"""A parser of compiled HLO text: computations, and how often each one runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_REDUCES = ("all-reduce", "reduce-scatter", "reduce", "scatter", "sort", "map")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str  # The operands and attributes.

    @property
    def operands(self) -> list[str]:
        """The names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ", 1)[0])

    @property
    def op_name(self) -> str:
        """The JAX operation that it comes from; "" if unknown."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls."""
        names = _CALLED.findall(self.rest)
        for listed in _BRANCHES.findall(self.rest):
            names += re.findall(r"%?([\w.\-]+)", listed)
        return names

    def attribute(self, name: str) -> str | None:
        """Returns the value of `name=`, up to a comma or space; None if absent."""
        found = re.search(rf"\b{name}=%?([^,\s]+)", self.rest)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Placed:
    """An instruction with its computation, and how often it runs in a step."""

    instruction: Instruction
    computation: str  # The computation that contains it.
    caller: str  # The nearest enclosing computation that is not a fusion.
    times: int  # Runs per step.


@dataclasses.dataclass(frozen=True)
class Module:
    """The computations of a program."""

    entry: str
    computations: Mapping[str, Mapping[str, Instruction]]

    @classmethod
    def parse(cls, text: str) -> Module:
        """Returns the module of `text`, the result of `Compiled.as_text`."""
        computations: dict[str, dict[str, Instruction]] = {}
        entry, current = "", None
        for line in _joined(text):
            if header := _HEADER.match(line):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current[found[1]] = Instruction(*found.groups())
        return cls(entry, computations)

    def placed(self) -> Iterator[Placed]:
        """Yields every instruction that runs, once for each call site."""
        yield from self._within(self.entry, self.entry, 1)

    def _within(self, name: str, caller: str, times: int) -> Iterator[Placed]:
        for instruction in self.computations.get(name, {}).values():
            yield Placed(instruction, name, caller, times)
            if instruction.opcode in _REDUCES or "-done" in instruction.opcode:
                continue
            trips = self.trips(name, instruction)
            for called in instruction.called:
                inside = caller if instruction.opcode == "fusion" else called
                yield from self._within(called, inside, times * trips)

    def trips(self, computation: str, instruction: Instruction) -> int:
        """Returns the trip count of a loop; 1 for any other instruction."""
        if instruction.opcode != "while":
            return 1
        if known := _KNOWN_TRIPS.search(instruction.rest):
            return int(known[1])
        condition = self.computations[instruction.attribute("condition") or ""]
        compared = self._compared(condition)
        limits = [_constant(x) for x in compared if x.opcode == "constant"]
        begins = [
            self._initial(computation, instruction, int(x.attribute("index") or 0))
            for x in compared
            if x.opcode == "get-tuple-element"
        ]
        return max(limits[0] - sum(begins), 1) if limits else 1

    def _compared(self, condition: Mapping[str, Instruction]) -> Sequence[Instruction]:
        """Returns what the condition of a loop compares, in the condition itself.

        XLA for GPUs puts the comparison, and the constant in it, into a fusion.
        """
        for instruction in condition.values():
            inside = condition
            if instruction.opcode == "fusion":
                inside = self.computations[instruction.attribute("calls") or ""]
            elif instruction.opcode != "compare":
                continue
            for compared in (x for x in inside.values() if x.opcode == "compare"):
                sources = [inside[x] for x in compared.operands]
                return [
                    condition[instruction.operands[_constant(x)]]
                    if x.opcode == "parameter" and inside is not condition
                    else x
                    for x in sources
                ]
        return []

    def _initial(self, computation: str, loop: Instruction, index: int) -> int:
        """Returns the constant initial value of a loop variable; 0 if unknown."""
        inside = self.computations[computation]
        carried = inside.get(loop.operands[0])
        if carried is None or carried.opcode != "tuple":
            return 0
        source = inside.get(carried.operands[index])
        while source is not None and source.opcode in ("copy", "bitcast"):
            source = inside.get(source.operands[0])
        is_constant = source is not None and source.opcode == "constant"
        return _constant(source) if source and is_constant else 0


def _joined(text: str) -> Iterator[str]:
    """Yields the lines of `text`; attributes with line breaks stay in one."""
    held = ""
    for line in text.splitlines():
        if held and line != "}" and not _INSTRUCTION.match(line):
            held += " " + line
            continue
        if held:
            yield held
        held = line if _INSTRUCTION.match(line) else ""
        if not held:
            yield line
    if held:
        yield held


def _constant(instruction: Instruction) -> int:
    found = re.match(r"-?\d+", instruction.rest)
    return int(found[0]) if found else 0
