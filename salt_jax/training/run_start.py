"""Where a run starts: at its latest checkpoint, or at step 0 without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from salt_jax.config import Experiment
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import recorded_seconds
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.training import going_back, resumption, run_directory
from salt_jax.training.position import Position
from salt_jax.training.program import Program
from salt_jax.training.stage_ends import StageEnds
from salt_jax.training.train_step import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStart:
    """The checkpoint that a run resumes from, and what it says."""

    step: int
    meta: dict[str, Any]  # Of the checkpoint; empty without one.
    saved: SavedCheckpoints
    ends: StageEnds
    restored_step: int | None  # Where the run went back to, if it did.

    @classmethod
    def find(
        cls,
        experiment: Experiment,
        workdir: epath.Path,
        accepted: Sequence[str],
        restore_step: int | None = None,
    ) -> RunStart:
        """Returns the start, once all in `workdir` is found to be of one run.

        Nothing is written.

        Args:
          experiment: What is to be run.
          workdir: The run directory.
          accepted: Dotted names of fields that may differ.
          restore_step: The checkpoint to resume from; None: the latest.

        Raises:
          ValueError: the run directory belongs to another experiment, its files are not
            of one run, or there is no such checkpoint.
          OSError: the storage failed.
        """
        saved = SavedCheckpoints(workdir / "checkpoints")
        latest = going_back.step_to_resume(saved, restore_step)
        meta = {} if latest is None else saved.read_meta(latest)
        resumption.check_experiment(experiment, meta, accepted)
        resumption.check_skipped(experiment, meta, latest or 0, accepted)
        run_directory.check_files(workdir, experiment, latest=latest, accepted=accepted)
        resumption.log_other_versions(meta)
        return cls(
            step=latest or 0,
            meta=meta,
            saved=saved,
            ends=StageEnds.of(meta),
            restored_step=restore_step or meta.get(going_back.RESTORED_STEP),
        )

    @property
    def position(self) -> Position:
        """How far the data has been read."""
        return Position.of(self.meta)

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprints of the data and teachers that the run has read."""
        return self.meta.get("inputs", {})

    def time_sheet(self, workdir: epath.Path, began: float) -> TimeSheet:
        """Returns the times of the run, for a process that began at `began`."""
        spent = self.meta.get("spent_seconds", {})
        return TimeSheet(began, spent, recorded=recorded_seconds(workdir))

    def state(self, program: Program) -> TrainState:
        """Returns the state to start from.

        It is, in this order: that of the checkpoint; one with the parameters of the
        export that the experiment names; a fresh one.
        """
        at = self.step if self.meta else None
        state = resumption.restore(program, self.saved, self.meta, at)
        return program.fresh_state() if state is None else state
