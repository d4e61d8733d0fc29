"""Restoring train states and parameters from the checkpoints of a run."""

from __future__ import annotations

from typing import Any

from etils import epath

from salt_jax.storage import checksums
from salt_jax.storage.array_files import (
    CorruptArraysError,
    check_same_arrays,
    restore_arrays,
)
from salt_jax.storage.checkpoint_folder import CheckpointFolder, differing


class SavedCheckpoints(CheckpointFolder):
    """The checkpoints of one run, to read; another process may be writing them."""

    @classmethod
    def of(cls, directory: epath.PathLike) -> SavedCheckpoints:
        """Returns the checkpoints in a directory.

        Raises:
          FileNotFoundError: there is no such directory.
        """
        if not epath.Path(directory).is_dir():
            raise FileNotFoundError(
                f"No checkpoints at {directory}: was the run ever started?"
            )
        return cls(directory)

    def step_named(self, wanted: str) -> int:
        """Returns the step named by `wanted`: a number, "latest" or "best".

        A number is returned without checking that it has a checkpoint.

        Raises:
          FileNotFoundError: there is no latest or no best checkpoint.
          ValueError: `wanted` is neither a number nor "latest" nor "best".
        """
        if wanted.isdecimal():
            return int(wanted)
        if wanted not in ("latest", "best"):
            raise ValueError(f"--step={wanted} is not a number, latest or best.")
        step = self.latest_step() if wanted == "latest" else self.best_step()
        if step is None:
            raise FileNotFoundError(f"No {wanted} checkpoint in {self.directory}.")
        return step

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
          ValueError: the checkpoint is damaged, or of another model or optimizer.
          OSError: the storage failed, or another process; nothing may be damaged.
        """
        return self._read(step, like, partial=False)

    def restore_params(self, step: int, like: Any, *, average: bool = False) -> Any:
        """Returns the parameters of the state of `step`, and reads nothing else.

        Args:
          step: One of `all_steps`.
          like: The parameters as shapes, dtypes and shardings.
          average: Whether to return their moving average instead.

        Raises the errors of `restore`, and:
          ValueError: the run keeps no moving average.
        """
        if not average:
            return self._read(step, {"params": like}, partial=True)["params"]
        self.check_average(step)
        found = self._read(step, {"average": {"params": like}}, partial=True)
        return found["average"]["params"]

    def check_average(self, step: int) -> None:
        """Checks that the state of `step` has a moving average of the parameters.

        Raises the errors of `read_meta`, and:
          ValueError: it has none.
        """
        if self.read_meta(step)["experiment"].get("average") is None:
            raise ValueError(
                f"Step {step} in {self.directory} has no moving average: leave out "
                "--average, or train with Experiment.average."
            )

    def read_meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON object saved beside the state of `step`.

        Raises:
          FileNotFoundError: there is no checkpoint of `step`.
          ValueError: the checkpoint is damaged.
          OSError: the storage failed.
        """
        return self.record(step).meta

    def _read(self, step: int, like: Any, *, partial: bool) -> Any:
        record, path = self.record(step), self.path(step) / "state"
        shapes = {name: text.rpartition(" ")[0] for name, text in record.arrays.items()}
        check_same_arrays(path, shapes, like, partial)
        try:
            tree = restore_arrays(path, like, partial=partial)
        except CorruptArraysError as error:
            raise self.damaged(step, str(error)) from error
        changed = checksums.changed(checksums.checksums(tree), record.arrays)
        if changed:
            raise self.damaged(step, differing(path, changed))
        return tree
