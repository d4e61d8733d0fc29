"""The groups of devices of a collective operation, from any form in HLO text."""

from __future__ import annotations

import math
import re

import numpy as np

from salt_jax.compiling.hlo import Instruction


def groups_of(instruction: Instruction, num_devices: int) -> list[list[int]]:
    """Returns the groups that exchange data; each pair, for a permutation."""
    groups = _pairs(instruction) if "permute" in instruction.opcode else None
    if groups is None:
        groups = _groups(instruction.rest) or [list(range(num_devices))]
    return groups


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
