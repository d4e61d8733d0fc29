"""Saving train states in the background while training continues."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
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
from salt_jax.storage.finishing import Finishing, background_writer
from salt_jax.storage.retention import Retention


class SaveError(OSError):
    """A checkpoint could not be saved; the earlier ones are as they were."""


class Checkpointer(SavedCheckpoints):
    """The checkpoints of one run, written in the background while training continues.

    It keeps those that its `Retention` says. The others are deleted once a new one is
    on disk and its index was read back. The next call that saves, polls or waits raises
    the error of a failed save.
    """

    def __init__(self, directory: epath.PathLike, retention: Retention):
        """Opens `directory`, created if missing, and removes unfinished checkpoints.

        All processes must call it.

        Args:
          directory: The directory of the checkpoints.
          retention: The steps to save, and the checkpoints to keep.

        Raises:
          ValueError: Orbax cannot write to `directory`.
          OSError: the directory cannot be written.
        """
        super().__init__(directory)
        check_name(self.directory)
        self.retention = retention
        self._finishing: Finishing | None = None
        self._unread: int | None = None  # A step that could not be read back.
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.remove_unfinished()
        multihost_utils.sync_global_devices(f"opened {self.directory}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_orbax())
            stack.enter_context(no_stray_callbacks())
            self._writer = background_writer(self.directory)
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
        if not self.is_saving():
            self.wait()

    def is_saving(self) -> bool:
        """Returns whether a save goes on in the background."""
        return self._finishing is not None and self._finishing.is_alive()

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
            if step != self._unread:
                return False
            self._start(step, self._read_back)
            return True
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
        self._start(step, self._finish)
        return True

    def _start(self, step: int, finish: Callable[[int], None]) -> None:
        self._finishing = Finishing(step, finish)
        self._finishing.start()

    def _finish(self, step: int) -> None:
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            self._read_back(step)

    def _read_back(self, step: int) -> None:
        """Reads the index of `step` back, and then deletes what need not be kept."""
        self._unread = step
        if is_local(self.directory):
            flush_tree(self.path(step))
            flush_folder(self.directory)
        try:
            self.verify_index(step)
        except ValueError:
            self.delete(step)
            raise
        self._unread = None
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
                with contextlib.suppress(Exception):  # Orbax's other writes end first.
                    self._writer.wait_until_finished()
                with contextlib.suppress(OSError):
                    self.remove_unfinished()
            good = [other for other in self.all_steps() if other != self._unread]
            raise SaveError(
                f"Saving the checkpoint of step {step} in {self.directory} failed; "
                f"the last good one is of step {max(good, default=None)} "
                f"({one_line(error)})."
            ) from error
