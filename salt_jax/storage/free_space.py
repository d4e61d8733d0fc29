"""Checks that a disk has room for a checkpoint, before it is written."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

import jax
from etils import epath

from salt_jax.files.writing import is_local

GIB = 2**30


def check_room(directory: epath.Path, state: Any, count: int) -> None:
    """Checks that `count` checkpoints of `state` fit on the disk of `directory`.

    Compression is not counted on: trained parameters hardly compress. Buckets always
    have room.

    Raises:
      ValueError: they do not; the message has both numbers.
    """
    needed, free = _bytes(state) * count, _free(directory)
    if needed > free:
        raise ValueError(
            f"{directory} has {_size(free)} free, and {count} more checkpoints of "
            f"{_size(_bytes(state))} need {_size(needed)}: make room, use another "
            "--workdir, or keep fewer (max_to_keep, keep_steps)."
        )


def check_free(directory: epath.Path, state: Any) -> None:
    """Checks that a checkpoint of `state` fits on the disk of `directory`.

    Raises:
      OSError: it does not; the message has both numbers.
    """
    needed, free = _bytes(state), _free(directory)
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{_size(needed)} are needed and {_size(free)} are free: make room",
        )


def _bytes(state: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def _free(directory: epath.Path) -> float:
    if not is_local(directory):
        return float("inf")
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(os.fspath(directory)).free


def _size(count: float) -> str:
    return f"{count / GIB:,.2f} GiB"
