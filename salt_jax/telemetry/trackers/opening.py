"""Trackers by name."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence

from salt_jax.telemetry.trackers import mlflow_tracker, wandb_tracker
from salt_jax.telemetry.trackers.mlflow_tracker import MlflowTracker
from salt_jax.telemetry.trackers.tracker import InBackground, TrackedRun, Tracker
from salt_jax.telemetry.trackers.wandb_tracker import WandbTracker

_BEGIN: dict[str, Callable[[TrackedRun], Tracker]] = {
    mlflow_tracker.NAME: MlflowTracker,
    wandb_tracker.NAME: WandbTracker,
}
_PACKAGE_OF = {
    module.NAME: module.PACKAGE for module in (mlflow_tracker, wandb_tracker)
}
NAMES = tuple(_BEGIN)


def check_installed(names: Sequence[str]) -> None:
    """Checks that the packages of some trackers are installed.

    Raises:
      ModuleNotFoundError: one is not; the error has its name.
    """
    for name in names:
        package = _PACKAGE_OF[name]
        spec = importlib.util.find_spec(package)
        # A folder of that name in the working directory is a package without a file.
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[InBackground]:
    """Begins the trackers of a run, each on its own thread."""
    return [InBackground(x, functools.partial(_BEGIN[x], run)) for x in names]
