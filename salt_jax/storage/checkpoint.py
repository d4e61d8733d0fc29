"""Saving train states in the background while training continues."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from salt_jax.files.records import seal
from salt_jax.files.writing import flush_folder, flush_tree, is_local
from salt_jax.storage import free_space
from salt_jax.storage.array_files import (
    check_name,
    no_stray_callbacks,
    one_line,
    quiet_orbax,
)
from salt_jax.storage.checkpoint_folder import BEST_BY, Record
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.checksums import checksums
from salt_jax.storage.finishing import Finishing
from salt_jax.storage.retention import Retention


class SaveError(OSError):
    """A checkpoint could not be saved; the earlier ones are as they were."""


class Checkpointer(SavedCheckpoints):
    """The checkpoints of one run, written in the background while training continues.

    It keeps the latest `max_to_keep`, the one with the lowest "val_loss" and those of
    `keep_steps`. The others are deleted once a new checkpoint is on disk and its index
    was read back. The next call that saves, polls or waits raises the error of a failed
    save.
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

        All processes must call it.

        Args:
          directory: The directory of the checkpoints.
          every: Steps between two checkpoints.
          max_to_keep: The number of latest checkpoints to keep.
          keep_steps: Steps that are saved too, and never deleted.

        Raises:
          ValueError: a number is not positive, or Orbax cannot write to `directory`.
          OSError: the directory cannot be written.
        """
        super().__init__(directory)
        check_name(self.directory)
        self.retention = Retention(
            every=every, max_to_keep=max_to_keep, keep_steps=tuple(keep_steps)
        )
        self._finishing: Finishing | None = None
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.remove_unfinished()
        multihost_utils.sync_global_devices(f"opened {self.directory}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_orbax())
            stack.enter_context(no_stray_callbacks())
            self._writer = _writer(self.directory)
            stack.callback(self._writer.close)
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

    def is_due(self, step: int) -> bool:
        """Returns whether `save` saves at `step`."""
        return self.retention.is_due(step)

    def check_space(self, state: Any, *, measured: bool) -> None:
        """Checks that there is room for the checkpoints that will be kept at once.

        Args:
          state: The state, or its shapes and dtypes.
          measured: Whether a best checkpoint is kept too.

        Raises:
          ValueError: there is not.
        """
        kept = self.retention.most_at_once(measured=measured) - len(self.all_steps())
        free_space.check_room(self.directory, state, max(kept, 1))

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
        return self.is_due(step) and self.begin(step, state, meta, metrics)

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
        self.begin(step, state, meta, metrics)
        self.wait()

    def poll(self) -> None:
        """Raises the OSError of the last save if it has failed; does not wait."""
        if self._finishing is not None and not self._finishing.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is on disk, and was read back.

        Raises:
          OSError: it failed; the message names its step and the last good one.
        """
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            with self._failure_named(finishing.step):
                finishing.result()

    def begin(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Begins to save `state`, due or not, unless `step` is saved; as `save`."""
        metrics = {} if metrics is None else dict(metrics)
        if metrics and not math.isfinite(metrics.get(BEST_BY, math.nan)):
            raise ValueError(
                f"{BEST_BY} of step {step} is {metrics.get(BEST_BY)}: it must be a "
                "finite number."
            )
        self.wait()
        latest = self.latest_step()
        if step == latest:
            return False
        if latest is not None and step < latest:
            raise ValueError(
                f"Not saving step {step} in {self.directory}: it has a checkpoint of "
                f"the later step {latest}. Resume it with --restore_step, or use "
                "another --workdir."
            )
        record = Record(
            step=step, metrics=metrics, arrays=checksums(state), meta=dict(meta)
        )
        fields = json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(seal(fields))
        )
        with self._failure_named(step):
            free_space.check_free(self.directory, state)
            self._writer.save(self.path(step), args=arguments)
        self._finishing = Finishing(step, self._finish)
        self._finishing.start()
        return True

    def _finish(self, step: int) -> None:
        """Waits until `step` is written, reads its index back, and deletes others."""
        self._writer.wait_until_finished()
        if jax.process_index() != 0:
            return
        if is_local(self.directory):
            flush_tree(self.path(step))
            flush_folder(self.directory)
        try:
            self.verify_index(step)
        except ValueError:
            self.delete(step)
            raise
        self._prune()

    def _prune(self) -> None:
        losses = {}
        for step in self.all_steps():
            with contextlib.suppress(ValueError):  # Damaged: not the best.
                losses[step] = self.record(step).metrics.get(BEST_BY)
        for step in self.retention.superfluous(self.all_steps(), losses):
            self.delete(step)

    @contextlib.contextmanager
    def _failure_named(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if jax.process_count() == 1:  # Others may still be writing.
                self.remove_unfinished()
            raise SaveError(
                f"Saving the checkpoint of step {step} in {self.directory} failed; "
                f"the last good one is of step {self.latest_step()} "
                f"({one_line(error)})."
            ) from error


def _writer(directory: epath.Path) -> ocp.AsyncCheckpointer:
    """Returns Orbax's writer: a rename completes a save, in buckets a last object."""
    mode = ocp.options.AtomicityMode
    options = ocp.options.AtomicityOptions(
        mode=mode.ATOMIC_RENAME if is_local(directory) else mode.COMMIT_FILE
    )
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(atomicity_options=options)
        ),
        atomicity_options=options,
    )
