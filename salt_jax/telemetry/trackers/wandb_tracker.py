"""Metrics in Weights & Biases.

Whatever the package reads from its environment holds: WANDB_API_KEY, WANDB_MODE=offline
(`wandb sync` sends it later), WANDB_PROJECT, WANDB_ENTITY.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

from salt_jax.files.writing import is_local
from salt_jax.telemetry.trackers.tracker import TrackedRun

NAME, PACKAGE = "wandb", "wandb"


class WandbTracker:
    """A run in Weights & Biases; a resumed run continues it."""

    def __init__(self, run: TrackedRun):
        import wandb

        identity = run.identity(NAME)
        if identity is None:
            identity = uuid.uuid4().hex[:16]
            run.keep_identity(NAME, identity)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "salt_jax"),
            id=identity,
            resume="allow",
            name=run.name,
            config=dict(run.experiment),
            dir=str(run.workdir) if is_local(run.workdir) else None,
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step.

        The steps that a resumed run repeats are ignored: they have the same numbers.
        """
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()
