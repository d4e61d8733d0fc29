"""The communication between chips of a compiled program, from its HLO text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from salt_jax.compiling.hlo import Instruction, Module, Placed

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
_BITS = {"pred": 8}  # For other dtypes, the first number in the name.
# Transfer types between slices, in the attributes of the TPU runtime.
_MEGASCALE = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of a program, summed over its runs in a step."""

    kind: str
    bytes_per_chip: float  # Bytes that a chip sends per step, with ring algorithms.
    count: int  # Runs per step.
    across_slices: bool
    where: str  # The JAX operation that it comes from.


def collectives(text: str, slice_of: Sequence[int]) -> list[Collective]:
    """Returns the collectives of a program.

    Args:
      text: The result of `Compiled.as_text`.
      slice_of: The slice index of each device, in the order of the mesh.
    """
    found, seen = [], set()
    for placed in Module.parse(text).placed():
        collective = _read(placed, slice_of)
        if collective is None:
            continue
        # A gather that overlaps with products is repeated in each of their fusions.
        channel = placed.instruction.attribute("channel_id")
        key = (placed.caller, collective.kind, channel)
        if channel is not None and placed.computation != placed.caller:
            if key in seen:
                continue
            seen.add(key)
        found.append(collective)
    return found


def total_bytes(
    found: Sequence[Collective], kind: str, *, across_slices: bool
) -> float:
    """Returns the bytes per step that a chip sends in collectives of one kind."""
    return sum(
        collective.bytes_per_chip
        for collective in found
        if (collective.kind, collective.across_slices) == (kind, across_slices)
    )


def _read(placed: Placed, slice_of: Sequence[int]) -> Collective | None:
    instruction = placed.instruction
    across = False
    if instruction.opcode == "recv" and "xla_megascale_runtime" in instruction.rest:
        # For transfers between slices, the text has only the host's side.
        named = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
        kind, across = _MEGASCALE.get(named[1] if named else "", ""), True
        members, size = len(set(slice_of)), _shapes(instruction.shape)[0]
    else:
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            return None
        members, across = _group(instruction, slice_of)
        size = _result_bytes(instruction, kind, members)
        if placed.computation.startswith("all-reduce-scatter"):
            # XLA for TPUs writes a reduce-scatter as an all-reduce and a slice.
            kind, size = "reduce-scatter", size / members
    if not kind:
        return None
    where = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(
        kind=kind,
        bytes_per_chip=placed.times * _sent(kind, size, members),
        count=placed.times,
        across_slices=across,
        where=where[1] if where else "",
    )


def _sent(kind: str, size: float, members: int) -> float:
    """Returns the bytes that each of `members` sends, for a result of `size` bytes."""
    share = (members - 1) / members
    return {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (members - 1),
        "all-to-all": size * share,
        "collective-permute": size,
    }[kind]


def _result_bytes(instruction: Instruction, kind: str, members: int) -> float:
    sizes = _shapes(instruction.shape)
    if not instruction.opcode.endswith("-start") or kind == "all-reduce":
        return sum(sizes)
    # The shape of other starts is a tuple of inputs, outputs and flags.
    total = sum(_shapes(re.sub(r"\bu32\[\]", "", instruction.shape)))
    return {
        "all-gather": total * members / (members + 1),
        "reduce-scatter": total / (members + 1),
    }.get(kind, total / 2)


def _shapes(text: str) -> list[float]:
    """Returns the bytes of each array of a shape, which may be a tuple."""
    sizes = []
    for dtype, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]", text):
        named = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(named[0]) if named else 0)
        count = math.prod(int(dim.strip("<=")) for dim in dims.split(",") if dim)
        sizes.append(count * bits / 8)
    return sizes


def _group(instruction: Instruction, slice_of: Sequence[int]) -> tuple[int, bool]:
    """Returns the size of the largest group, and whether any group crosses slices."""
    groups = _pairs(instruction) if "permute" in instruction.opcode else None
    if groups is None:
        groups = _groups(instruction.rest) or [list(range(len(slice_of)))]
    across = any(len({slice_of[i] for i in group}) > 1 for group in groups)
    return max(len(group) for group in groups), across


def _pairs(instruction: Instruction) -> list[list[int]]:
    listed = re.search(r"source_target_pairs=\{(.*?)\}\}", instruction.rest)
    return _lists(listed[1]) if listed else [[0]]


def _groups(rest: str) -> list[list[int]] | None:
    """Returns the replica groups, from any of the three forms in HLO text."""
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return _lists(listed[1])
    iota = r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if found := re.search(rf"replica_groups={iota}", rest):
        return _iota(*found.groups()).tolist()
    mesh = r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}"
    if found := re.search(mesh, rest):
        return _of_mesh(*found.groups())
    return None


def _of_mesh(axes: str, device_ids: str | None, along: str) -> list[list[int]]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    shape = tuple(sizes.values())
    ids = np.arange(math.prod(shape))
    if device_ids:
        iota = re.search(
            r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", device_ids
        )
        if iota and (iota[2] or iota[3]):
            ids = _iota(iota[1], iota[2] or iota[1], iota[3]).reshape(-1)
        else:
            ids = np.array(_integers(device_ids))
    ids = ids.reshape(shape)
    # A group may use part of an axis, written name:(size before it)size of the part.
    grouped = []
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along):
        at = list(sizes).index(name)
        if before:
            whole = ids.shape[at]
            split = (int(before), int(size), whole // int(before) // int(size))
            ids = ids.reshape(*ids.shape[:at], *split, *ids.shape[at + 1 :])
            names = list(sizes)
            names[at : at + 1] = [name + "/before", name, name + "/after"]
            sizes = dict(zip(names, ids.shape, strict=True))
        grouped.append(name)
    last = [list(sizes).index(name) for name in grouped]
    first = [axis for axis in range(ids.ndim) if axis not in last]
    members = math.prod(ids.shape[axis] for axis in last)
    return ids.transpose(*first, *last).reshape(-1, members).tolist()


def _iota(shape: str, dims: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_integers(dims))).reshape(_integers(dims))
    if order:
        ids = ids.transpose(_integers(order))
    return ids.reshape(_integers(shape))


def _lists(text: str) -> list[list[int]]:
    return [_integers(group) for group in re.findall(r"\{?([\d,]+)\}?", text)]


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
