"""FLOPs and memory traffic of one instruction of a compiled program."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence

from salt_jax.compiling.hlo import Instruction, Module
from salt_jax.compiling.shapes import arrays

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# They move nothing: names for parts of other arrays, or known when compiling.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
    *("partition-id", "replica-id", "after-all", "domain", "opt-barrier"),
}
_FREE_CALLS = re.compile(
    'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound)"'
)
_SLICES = {"dynamic-slice", "slice", "gather"}
_RENAMES = {"bitcast", "reshape", "convert", "copy"}
# Products of a fused attention kernel: for outputs, and for all three gradients.
_SPLASH = {"splash_mha_fwd": 2, "splash_mha_dkv": 5, "splash_mha_dq": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What one run of an instruction does."""

    flops: float = 0.0  # Of matrix products.
    bytes: float = 0.0  # Between memory and chip.
    cycles: int | None = None  # As XLA's cost model for TPUs has them.


class Worker:
    """Reads the work of instructions of one module."""

    def __init__(self, module: Module):
        self._computations = module.computations
        self._flops_in = functools.cache(self._flops_of_computation)

    def work(self, instruction: Instruction, computation: str) -> Work:
        """Returns the work of an instruction that stands in `computation`."""
        if instruction.opcode in FREE or _FREE_CALLS.search(instruction.rest):
            return Work()
        cycles = _CYCLES.search(instruction.rest)
        return Work(
            flops=self._flops(instruction, self._computations[computation]),
            bytes=self._bytes(instruction, self._computations[computation]),
            cycles=int(cycles[1]) if cycles else None,
        )

    # ---- FLOPs --------------------------------------------------------------

    def _flops_of_computation(self, name: str) -> float:
        inside = self._computations.get(name, {})
        return sum(self._flops(x, inside) for x in inside.values())

    def _flops(
        self, instruction: Instruction, beside: Mapping[str, Instruction]
    ) -> float:
        if instruction.opcode == "fusion":
            return sum(map(self._flops_in, instruction.called))
        shapes = [
            arrays(beside[name].shape)[0].dims
            for name in instruction.operands
            if name in beside and arrays(beside[name].shape)
        ]
        if instruction.opcode == "dot":
            return _dot_flops(instruction, shapes[0])
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, *shapes[:2])
        if instruction.opcode == "custom-call":
            return _kernel_flops(instruction, shapes)
        return 0.0

    # ---- Bytes --------------------------------------------------------------

    def _bytes(
        self, instruction: Instruction, beside: Mapping[str, Instruction]
    ) -> float:
        inside = self._fused(instruction)
        read = 0.0
        for index, name in enumerate(instruction.operands):
            if name in beside:
                whole = _memory_bytes(beside[name].shape)
                read += min(whole, self._read(instruction, inside, index, whole))
        return read + self._written(instruction, inside, beside)

    def _fused(self, instruction: Instruction) -> Mapping[str, Instruction]:
        if instruction.opcode != "fusion" or not instruction.called:
            return {}
        return self._computations.get(instruction.called[0], {})

    def _read(
        self,
        instruction: Instruction,
        inside: Mapping[str, Instruction],
        index: int,
        whole: float,
    ) -> float:
        """Returns the bytes that are read of an operand of `whole` bytes."""
        if not inside:
            if instruction.opcode in _SLICES and index == 0:
                return _total_bytes(instruction.shape)
            is_updated = instruction.opcode == "dynamic-update-slice" and index == 0
            return 0.0 if is_updated else whole
        parameter = next(
            x.name
            for x in inside.values()
            if x.opcode == "parameter" and x.rest.startswith(f"{index})")
        )
        return self._read_inside(inside, parameter, whole)

    def _read_inside(
        self, inside: Mapping[str, Instruction], name: str, whole: float
    ) -> float:
        read = 0.0
        for user in inside.values():
            for index, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.opcode in _RENAMES:
                    read += self._read_inside(inside, user.name, whole)
                else:
                    read += self._read(user, self._fused(user), index, whole)
        return min(read, whole)

    def _written(
        self,
        instruction: Instruction,
        inside: Mapping[str, Instruction],
        beside: Mapping[str, Instruction],
    ) -> float:
        if instruction.opcode == "dynamic-update-slice":
            return _memory_bytes(instruction.shape) and _total_bytes(
                beside[instruction.operands[1]].shape
            )
        whole = _memory_bytes(instruction.shape)
        if not inside:
            return whole
        root = list(inside.values())[-1]
        while root.opcode in _RENAMES and root.operands[0] in inside:
            root = inside[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            return min(whole, _total_bytes(inside[root.operands[1]].shape))
        return whole


def _memory_bytes(shape: str) -> float:
    return sum(x.bytes for x in arrays(shape) if x.in_memory)


def _total_bytes(shape: str) -> float:
    return sum(x.bytes for x in arrays(shape))


def _dot_flops(dot: Instruction, left: Sequence[int]) -> float:
    listed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    over = [int(i) for i in listed[1].split(",")] if listed and listed[1] else []
    made = math.prod(arrays(dot.shape)[0].dims)
    return 2.0 * made * math.prod(left[i] for i in over)


def _convolution_flops(
    convolution: Instruction, left: Sequence[int], right: Sequence[int]
) -> float:
    """Returns the FLOPs of a convolution, as XLA for TPUs writes all products.

    Positions of a window in the padding are not computed, so a batched product counts
    no more than its own.
    """
    labels = _LABELS.search(convolution.rest)
    if labels is None:
        return 0.0
    of_left, of_right, of_made = labels.groups()
    made = arrays(convolution.shape)[0].dims
    flops = 2.0 * made[of_made.index("b")] * made[of_made.index("f")]
    flops *= right[of_right.index("i")]
    window = _WINDOW.search(convolution.rest)
    fields = dict(x.split("=") for x in window[1].split()) if window else {}
    for at in range(len(of_left) - 2):
        flops *= _pairs(
            left[of_left.index(str(at))], made[of_made.index(str(at))], at, fields
        )
    return flops


def _pairs(size: int, made: int, at: int, fields: Mapping[str, str]) -> int:
    """Returns how often a window's positions meet input along one dimension."""

    def field(name: str, default: str) -> str:
        return fields[name].split("x")[at] if name in fields else default

    width = int(field("size", "1"))
    stride, spread = int(field("stride", "1")), int(field("rhs_dilate", "1"))
    before, holes = (
        int(field("pad", "0_0").split("_")[0]),
        int(field("lhs_dilate", "1")),
    )
    met = 0
    for position in range(width):
        # Solve for outputs whose input lies in [0, (size - 1) * holes] on the grid.
        first = position * spread - before
        last = (size - 1) * holes
        begin = max(0, -(first // stride))
        end = min(made - 1, (last - first) // stride)
        if holes == 1:
            met += max(0, end - begin + 1)
        else:
            met += sum((first + i * stride) % holes == 0 for i in range(begin, end + 1))
    return met


def _kernel_flops(kernel: Instruction, shapes: Sequence[Sequence[int]]) -> float:
    """Returns the FLOPs of a custom call: its author's estimate, or by formula.

    Attention counts all keys for each query, masked ones too, as the bill does.
    """
    if estimate := re.search(r'"cost_estimate":(\{[^}]*\})', kernel.rest):
        return float(json.loads(estimate[1]).get("flops", 0))
    for name, products in _SPLASH.items():
        if kernel.name.startswith(name):
            queries = next(x for x in shapes if len(x) >= 3)
            keys = next(x for x in shapes[1:] if len(x) >= 3)
            return 2.0 * products * math.prod(queries) * keys[-2]
    return 0.0
