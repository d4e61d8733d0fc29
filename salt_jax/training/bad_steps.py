"""What is said of a step whose numbers are out of bounds or not finite.

Step N makes its update on batch N - 1, in every message.
"""

from __future__ import annotations

import math
from typing import Any

from absl import logging

from salt_jax.config import Experiment, Stage
from salt_jax.data.reading import batch_ranges
from salt_jax.training.train_step import Metrics

_NOTHING_SAVED = "Nothing since the last checkpoint was saved."


def check_step(
    experiment: Experiment, step: int, stage: Stage, metrics: Metrics
) -> bool:
    """Returns whether a step kept its update; logs a warning if it was dropped.

    Args:
      experiment: The experiment of the run.
      step: The step, counted from 1.
      stage: Its stage.
      metrics: The metrics that its update returned, on the host.

    Raises:
      FloatingPointError: a number is not finite and there is no guard, or as many
        updates in a row were dropped as end the run.
    """
    names = ("grad_norm", "update_norm")
    found = {"loss": _mean(metrics, "loss")} | {x: float(metrics[x]) for x in names}
    said = ", ".join(f"{name}={value:.6g}" for name, value in found.items())
    where = f"step {step} of stage {stage.name!r} (batch {step - 1}): {said}"
    in_a_row = int(metrics.get("skipped_in_a_row", 0))
    if not in_a_row:
        if all(map(math.isfinite, found.values())):
            return True
        raise FloatingPointError(
            f"Not finite at {where}.{_of_teacher(metrics)} {_NOTHING_SAVED} "
            f"{_ways_on(experiment, step)}"
        )
    logging.warning("No update at %s.%s", where, _of_teacher(metrics))
    guard = experiment.guard
    if guard is not None and in_a_row >= guard.max_in_a_row:
        raise FloatingPointError(
            f"The guard dropped {in_a_row} updates in a row, the last at {where}."
            f"{_of_teacher(metrics)} {_NOTHING_SAVED} {_ways_on(experiment, step)}"
        )
    return False


def _of_teacher(metrics: Metrics) -> str:
    """Says so if the teacher's outputs are not finite while the student's are."""
    if "teacher_ce" not in metrics:
        return ""
    student, teacher = _mean(metrics, "ce"), _mean(metrics, "teacher_ce")
    if math.isfinite(teacher) or not math.isfinite(student):
        return ""
    return f" The teacher's logits are not finite: ce={student:.6g}, teacher_ce=nan."


def _ways_on(experiment: Experiment, step: int) -> str:
    """Says how to go on after `step`."""
    ranges = batch_ranges.including(experiment.skip_batches, step - 1)
    return (
        f"To leave batch {step - 1} out, run the same command with "
        f'--gin.config.Experiment.skip_batches="{ranges}"; with --debug_step={step} it '
        "shows which rows and layers are bad."
    )


def _mean(metrics: dict[str, Any], name: str) -> float:
    return float(metrics[name].mean())
