"""The checkpoints of a run as folders: listed, described, verified, moved and deleted.

A checkpoint is a folder named by its step. It holds `state`, the arrays of a tree, and
`meta`, a sealed record with the checksums of these arrays. On a disk it gets its name,
and in a bucket the file COMMITTED, once everything is written; it loses them before
anything is deleted. So what is listed is whole, whenever a process was killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from etils import epath

from salt_jax.files.buckets import move_folder
from salt_jax.files.failures import retried
from salt_jax.files.records import decode_record
from salt_jax.files.writing import is_local, write_file
from salt_jax.storage.array_files import CorruptArraysError, absolute
from salt_jax.storage.stored_sums import check_index, stored_checksums

COMMITTED = "commit_success.txt"
_TEMPORARY = ".orbax-checkpoint-tmp"  # In the name of a folder being written.
_DELETING = ".deleting"
BEST_BY = "val_loss"  # The lowest is the best.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint holds beside its state."""

    step: int
    metrics: dict[str, float]  # Held-out metrics of the state; empty if not measured.
    arrays: dict[str, str]  # What `checksums` returned for the state.
    meta: dict[str, Any]


class CheckpointFolder:
    """The folder with the checkpoints of one run."""

    def __init__(self, directory: epath.PathLike):
        """Names the folder; it need not exist."""
        self.directory = absolute(directory)

    def path(self, step: int) -> epath.Path:
        """Returns the folder of the checkpoint of `step`."""
        return self.directory / str(step)

    def all_steps(self) -> list[int]:
        """Returns the steps with a checkpoint, in increasing order."""
        return sorted(int(path.name) for path in self._entries() if _is_whole(path))

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, or None."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the lowest "val_loss", or None.

        Raises:
          ValueError: a record is damaged.
        """
        measured = {}
        for step in self.all_steps():
            metrics = self.record(step).metrics
            if BEST_BY in metrics:
                measured[step] = metrics[BEST_BY]
        return min(measured, key=lambda step: (measured[step], step), default=None)

    def record(self, step: int) -> Record:
        """Returns the record of the checkpoint of `step`.

        Raises:
          FileNotFoundError: there is no checkpoint of `step`.
          ValueError: the record is damaged, or of another step.
          OSError: the storage failed.
        """
        path = self.path(step) / "meta" / "metadata"
        if not path.exists():
            if step not in self.all_steps():
                raise FileNotFoundError(
                    f"No checkpoint of step {step} in {self.directory}; there are "
                    f"{self.all_steps() or 'none'}."
                )
            raise self.damaged(step, f"{path} is missing.")
        contents = retried(path.read_bytes, f"Reading {path}")
        remedy = self._remedy(step)
        record = decode_record(contents, Record, where=str(path), remedy=remedy)
        if record.step != step:
            raise self.damaged(step, f"{path} is of step {record.step}.")
        return record

    def verify_index(self, step: int) -> None:
        """Checks that the record, and the index of every array in it, can be read.

        Raises:
          ValueError: the checkpoint is damaged.
          OSError: the storage failed.
        """
        self._verify(step, check_index)

    def verify_arrays(self, step: int) -> None:
        """Checks the record, and reads every array to compare its checksum.

        Raises:
          ValueError: the checkpoint is damaged.
          OSError: the storage failed.
        """

        def check(path: epath.Path, arrays: dict[str, str]) -> None:
            for name, found in stored_checksums(path, arrays):
                if found != arrays[name]:
                    raise CorruptArraysError(differing(path, [name]))

        self._verify(step, check)

    def _verify(self, step: int, check: Any) -> None:
        record = self.record(step)
        try:
            check(self.path(step) / "state", record.arrays)
        except CorruptArraysError as error:
            raise self.damaged(step, str(error)) from error

    def delete(self, step: int) -> None:
        """Deletes the checkpoint of `step`; killed in between, it is not listed."""
        path = self.path(step)
        if is_local(path):
            path = path.rename(path.parent / f"{path.name}{_DELETING}")
        else:
            (path / COMMITTED).unlink(missing_ok=True)
        path.rmtree(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Removes what killed processes left of saving and deleting."""
        for path in self._entries():
            in_bucket = path.name.isdecimal() and not is_local(path)
            unfinished = in_bucket and not _is_whole(path)
            if unfinished or _TEMPORARY in path.name or path.name.endswith(_DELETING):
                path.rmtree(missing_ok=True)

    def set_aside_after(self, step: int) -> epath.Path | None:
        """Moves the checkpoints after `step` out of the way, the latest first.

        Returns:
          The folder beside this one that holds them, or None if there are none. The
          metrics of the run are copied there too.
        """
        later = [other for other in self.all_steps() if other > step]
        if not later:
            return None
        aside = _unused(self.directory.parent / "set_aside" / f"after_step_{step}")
        folder = aside / self.directory.name
        folder.mkdir(parents=True)
        metrics = self.directory.parent / "metrics.jsonl"
        if metrics.exists():
            write_file(aside / metrics.name, metrics.read_bytes())
        for other in reversed(later):
            if is_local(folder):
                self.path(other).rename(folder / str(other))
            else:
                move_folder(self.path(other), folder / str(other), last=COMMITTED)
        return aside

    def damaged(self, step: int, reason: str) -> ValueError:
        """Returns the error that says why `step` cannot be restored, and what to do."""
        return ValueError(
            f"Cannot restore step {step}: {reason.rstrip('.')}; {self._remedy(step)}."
        )

    def _remedy(self, step: int) -> str:
        earlier = [other for other in self.all_steps() if other < step]
        if not earlier:
            return "there is no earlier checkpoint: start over in another --workdir"
        return f"resume from an earlier checkpoint with --restore_step={earlier[-1]}"

    def _entries(self) -> Iterator[epath.Path]:
        return self.directory.iterdir() if self.directory.exists() else iter(())


def differing(path: epath.Path, names: list[str]) -> str:
    """Returns the message that the checksums of arrays differ."""
    more = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return f"{path} is damaged: {names[0]}{more} has another checksum than was saved."


def _is_whole(path: epath.Path) -> bool:
    name = path.name
    if not name.isdecimal() or str(int(name)) != name:
        return False
    return is_local(path) or (path / COMMITTED).exists()


def _unused(path: epath.Path) -> epath.Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.parent / f"{path.name}_{number}"
    return candidate
