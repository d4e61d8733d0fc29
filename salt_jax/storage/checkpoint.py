"""Saving and restoring train states.

A checkpoint is a directory named by its step. It holds `state`, the arrays of a tree,
and `meta`, a small JSON object. It gets its name once everything is on disk, so a
process killed while saving leaves the previous checkpoint as the latest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as keep

from salt_jax.storage.array_files import (
    CorruptArraysError,
    absolute,
    no_stray_callbacks,
    one_line,
    quiet_orbax,
    read_arrays,
)

BEST_BY = "val_loss"  # The lowest is the best.


class Checkpointer:
    """The checkpoints of one run, written in the background while training continues.

    It keeps the latest `max_to_keep`, the one with the lowest "val_loss" and those of
    `keep_steps`. The next call that saves or waits raises the error of a failed save.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        every: int,
        max_to_keep: int,
        keep_steps: Sequence[int] = (),
    ):
        """Opens `directory`, created if missing, and removes unfinished checkpoints.

        Args:
          directory: The directory of the checkpoints.
          every: Steps between two checkpoints.
          max_to_keep: The number of latest checkpoints to keep.
          keep_steps: Steps that are saved too, and never deleted.

        Raises:
          ValueError: a number is not positive, or the directory cannot be read.
        """
        for name, value in (("every", every), ("max_to_keep", max_to_keep)):
            if value < 1:
                raise ValueError(f"Checkpointer.{name} must be positive, got {value}.")
        if min(keep_steps, default=1) < 1:
            raise ValueError(
                f"Checkpointer.keep_steps must be positive, got {list(keep_steps)}."
            )
        self._every = every
        self._keep_steps = frozenset(keep_steps)
        self._open(
            directory,
            cleanup_tmp_directories=True,
            preservation_policy=_preservation(max_to_keep, keep_steps),
        )

    @classmethod
    def reading(cls, directory: epath.PathLike) -> Self:
        """Opens checkpoints read-only; another process may be writing them.

        Raises:
          FileNotFoundError: there is no such directory.
        """
        if not epath.Path(directory).is_dir():
            raise FileNotFoundError(
                f"No checkpoints at {directory}: was the run ever started?"
            )
        self = cls.__new__(cls)
        self._open(directory, read_only=True)
        return self

    def _open(self, directory: epath.PathLike, **options: Any) -> None:
        self.directory = absolute(directory)
        self._saving: int | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_orbax())
            stack.enter_context(no_stray_callbacks())
            options = ocp.CheckpointManagerOptions(
                best_fn=_val_loss, best_mode="min", **options
            )
            try:
                self._manager = ocp.CheckpointManager(self.directory, options=options)
            except Exception as error:
                raise ValueError(
                    f"The checkpoints in {self.directory} cannot be opened "
                    f"({one_line(error)})."
                ) from error
            self._on_close = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._on_close:
            try:
                self.wait()
            except OSError as error:
                if kind is None:
                    raise
                logging.error("%s", error)  # Do not hide the error that ended the run.
            finally:
                self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the lowest "val_loss", or None."""
        return self._manager.best_step()

    def step_named(self, wanted: str) -> int:
        """Returns the step named by `wanted`: a number, "latest" or "best".

        A number is returned without checking that it has a checkpoint.

        Raises:
          FileNotFoundError: there is no latest or no best checkpoint.
          ValueError: `wanted` is neither a number nor "latest" nor "best".
        """
        steps = {"latest": self.latest_step(), "best": self.best_step()}
        if wanted not in steps and not wanted.isdecimal():
            raise ValueError(f"--step={wanted} is not a number, latest or best.")
        step = steps[wanted] if wanted in steps else int(wanted)
        if step is None:
            raise FileNotFoundError(f"No {wanted} checkpoint in {self.directory}.")
        return step

    def all_steps(self) -> list[int]:
        """Returns the steps with a checkpoint, in increasing order."""
        return sorted(self._manager.all_steps())

    def is_due(self, step: int) -> bool:
        """Returns whether `save` saves at `step`."""
        return step % self._every == 0 or step in self._keep_steps

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Saves `state` if a checkpoint is due at `step`; returns whether it was.

        Waits for the previous save, and until the arrays are copied to the host; they
        may be donated then. The rest is written in the background.

        Raises:
          OSError: the previous save failed, or this one could not begin.
        """
        return self.is_due(step) and self._begin(step, state, meta, metrics)

    def save_now(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves `state` unless `step` is saved already; waits until it is on disk.

        Raises:
          OSError: this save or the previous one failed.
        """
        self._begin(step, state, meta, metrics)
        self.wait()

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          OSError: it failed; the message names its step and the last good one.
        """
        with self._failure_named():
            self._manager.wait_until_finished()
        self._saving = None

    def restore_latest(self, like: Any) -> Any | None:
        """Returns the state of the latest checkpoint, or None; see `restore`."""
        step = self.latest_step()
        return None if step is None else self.restore(step, like)

    def restore(self, step: int, like: Any) -> Any:
        """Returns the state of `step`, read onto the shardings of `like`.

        Args:
          step: One of `all_steps`.
          like: The state as shapes, dtypes and shardings, of this mesh or another.

        Raises:
          FileNotFoundError: there is no checkpoint of `step`.
          ValueError: the checkpoint is corrupt, or of another model or optimizer.
        """
        return self._read(step, like, partial=False)

    def restore_params(self, step: int, like: Any) -> Any:
        """Returns the parameters of the state of `step`, and reads nothing else.

        Raises the errors of `restore`.
        """
        return self._read(step, {"params": like}, partial=True)["params"]

    def read_meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON object saved beside the state of `step`.

        Raises:
          FileNotFoundError: there is no checkpoint of `step`.
          ValueError: the checkpoint is corrupt.
        """
        self._check_saved(step)
        arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
        try:
            return self._manager.restore(step, args=arguments).meta
        except Exception as error:
            raise self._corrupt(step, one_line(error)) from error

    def _begin(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
    ) -> bool:
        latest = self.latest_step()
        if step == latest:
            return False
        if latest is not None and step < latest:
            raise ValueError(
                f"Not saving step {step} in {self.directory}: it has a checkpoint of "
                f"the later step {latest}. Remove it, or use another --workdir."
            )
        if metrics is not None and not math.isfinite(metrics.get(BEST_BY, math.nan)):
            raise ValueError(
                f"{BEST_BY} of step {step} is {metrics.get(BEST_BY)}: it must be a "
                "finite number."
            )
        self.wait()
        self._saving = step
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        )
        with self._failure_named():
            return self._manager.save(
                step, args=arguments, metrics=metrics and dict(metrics), force=True
            )

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            step, self._saving = self._saving, None
            self._manager.reload()
            raise OSError(
                f"Saving the checkpoint of step {step} in {self.directory} failed; "
                f"the last good one is of step {self.latest_step()} "
                f"({one_line(error)})."
            ) from error

    def _read(self, step: int, like: Any, *, partial: bool) -> Any:
        self._check_saved(step)
        try:
            return read_arrays(
                self.directory / str(step) / "state", like, partial=partial
            )
        except CorruptArraysError as error:
            raise self._corrupt(step, str(error)) from error

    def _check_saved(self, step: int) -> None:
        self.wait()
        if step not in self.all_steps():
            raise FileNotFoundError(
                f"No checkpoint of step {step} in {self.directory}; there are "
                f"{self.all_steps() or 'none'}."
            )

    def _corrupt(self, step: int, reason: str) -> ValueError:
        earlier = [other for other in self.all_steps() if other < step]
        advice = f"resume from step {earlier[-1]}" if earlier else "start over"
        return ValueError(
            f"Cannot restore step {step}: {reason} Remove "
            f"{self.directory / str(step)} to {advice}."
        )


def _preservation(max_to_keep: int, keep_steps: Sequence[int]) -> Any:
    return keep.AnyPreservationPolicy(
        [
            keep.LatestN(max_to_keep),
            keep.BestN(
                get_metric_fn=lambda metrics: -_val_loss(metrics),
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
            keep.CustomSteps(keep_steps),
        ]
    )


def _val_loss(metrics: Mapping[str, float]) -> float:
    return metrics[BEST_BY]
