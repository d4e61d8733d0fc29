"""The communication between chips of a compiled program, from its HLO text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from salt_jax.compiling.hlo import Instruction, Module
from salt_jax.compiling.replica_groups import groups_of
from salt_jax.compiling.shapes import arrays

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """One run of a collective operation."""

    kind: str
    sent: float  # Bytes that a chip sends, with a ring algorithm.
    group: Sequence[int]  # The devices of the largest group.
    across_slices: bool


def transfer_of(
    instruction: Instruction, computation: str, slice_of: Sequence[int]
) -> Transfer | None:
    """Returns what an instruction sends; None if it is no collective operation.

    Args:
      instruction: Any instruction.
      computation: The name of the computation that contains it.
      slice_of: The slice index of each device, in the order of the mesh.
    """
    if instruction.opcode == "recv" and "xla_megascale_runtime" in instruction.rest:
        return _across(instruction, slice_of)
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    groups = groups_of(instruction, len(slice_of))
    group = max(groups, key=len)
    size = _result_bytes(instruction, kind, len(group))
    if computation.startswith("all-reduce-scatter"):
        # XLA for TPUs writes a reduce-scatter as an all-reduce and a slice.
        kind, size = "reduce-scatter", size / len(group)
    return Transfer(
        kind=kind,
        sent=_sent(kind, size, len(group)),
        group=group,
        across_slices=any(len({slice_of[i] for i in x}) > 1 for x in groups),
    )


def collectives(text: str, slice_of: Sequence[int]) -> list[Collective]:
    """Returns the collectives of a program.

    Args:
      text: The result of `Compiled.as_text`.
      slice_of: The slice index of each device, in the order of the mesh.
    """
    found, seen = [], set()
    for placed in Module.parse(text).placed():
        instruction = placed.instruction
        transfer = transfer_of(instruction, placed.computation, slice_of)
        if transfer is None:
            continue
        # A gather that overlaps with products is repeated in each of their fusions.
        channel = instruction.attribute("channel_id")
        key = (placed.caller, transfer.kind, channel)
        if channel is not None and placed.computation != placed.caller:
            if key in seen:
                continue
            seen.add(key)
        found.append(
            Collective(
                kind=transfer.kind,
                bytes_per_chip=placed.times * transfer.sent,
                count=placed.times,
                across_slices=transfer.across_slices,
                where=instruction.op_name,
            )
        )
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


def _across(instruction: Instruction, slice_of: Sequence[int]) -> Transfer | None:
    """Returns a transfer between slices, of which the text has the host's side only."""
    named = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
    kind = _MEGASCALE.get(named[1] if named else "")
    if kind is None:
        return None
    members = sorted({part: i for i, part in enumerate(slice_of)}.values())
    size = arrays(instruction.shape)[0].bytes
    sent = _sent(kind, size, len(members))
    return Transfer(kind=kind, sent=sent, group=members, across_slices=True)


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
    if not instruction.opcode.endswith("-start") or kind == "all-reduce":
        return sum(x.bytes for x in arrays(instruction.shape))
    # The shape of other starts is a tuple of inputs, outputs and flags.
    shape = re.sub(r"\bu32\[\]", "", instruction.shape)
    total = sum(x.bytes for x in arrays(shape))
    return {
        "all-gather": total * members / (members + 1),
        "reduce-scatter": total / (members + 1),
    }.get(kind, total / 2)
