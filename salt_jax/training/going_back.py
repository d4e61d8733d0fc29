"""Resuming a run from an earlier checkpoint than its latest."""

from __future__ import annotations

import jax
from absl import logging
from jax.experimental import multihost_utils

from salt_jax.storage.checkpoint_reading import SavedCheckpoints

RESTORED_STEP = "restored_step"  # In the meta of checkpoints: where a run went back to.


def step_to_resume(saved: SavedCheckpoints, restore_step: int | None) -> int | None:
    """Returns the step to resume, or None if nothing is saved.

    A scheduler repeats its command. So a run that went back to `restore_step` and has
    saved since then resumes from its latest checkpoint.

    Args:
      saved: The checkpoints of the run.
      restore_step: The step to go back to; None: the latest.

    Raises:
      FileNotFoundError: `restore_step` has no checkpoint.
      ValueError: a checkpoint is damaged.
    """
    latest = saved.latest_step()
    if restore_step is None or latest is None or restore_step == latest:
        if latest is None and restore_step is not None:
            saved.record(restore_step)  # Says that there is none.
        return latest
    if _went_back_to(saved, latest) == restore_step:
        logging.info(
            "The run went back to step %d before, and goes on from step %d. To go back "
            "once more, first move the later checkpoints out of %s.",
            *(restore_step, latest, saved.directory),
        )
        return latest
    saved.record(restore_step)
    return restore_step


def set_aside(saved: SavedCheckpoints, step: int) -> None:
    """Moves the checkpoints after `step` aside; all processes must call it."""
    if jax.process_index() == 0:
        later = [other for other in saved.all_steps() if other > step]
        folder = saved.set_aside_after(step)
        if folder is not None:
            logging.info(
                "Back to step %d: the checkpoints of steps %s, and a copy of the "
                "metrics, are kept in %s.",
                *(step, ", ".join(map(str, later)), folder),
            )
    multihost_utils.sync_global_devices(f"back to step {step}")


def _went_back_to(saved: SavedCheckpoints, step: int) -> int | None:
    try:
        return saved.read_meta(step).get(RESTORED_STEP)
    except ValueError:  # Damaged, which may be why the run goes back.
        return None
