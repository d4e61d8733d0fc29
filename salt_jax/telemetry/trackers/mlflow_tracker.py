"""Metrics in MLflow.

Whatever the package reads from its environment holds: MLFLOW_TRACKING_URI and what
gives access to it, MLFLOW_EXPERIMENT_NAME. Without a URI the metrics are in
`mlflow.db`, an SQLite file in the run directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from salt_jax.files.writing import is_local
from salt_jax.telemetry.trackers.tracker import TrackedRun

NAME, PACKAGE = "mlflow", "mlflow"
_MOST_PARAMS = 100  # In one request.
_MOST_CHARACTERS = 500  # Of one parameter.


class MlflowTracker:
    """A run in MLflow; a resumed run continues it."""

    def __init__(self, run: TrackedRun):
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=_uri(run))
        identity = run.identity(NAME)
        if identity is None:
            identity = self._new_run(run)
            run.keep_identity(NAME, identity)
        else:
            self._client.update_run(identity, status="RUNNING")
        self._identity = identity

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, x, now, step) for name, x in values.items()]
        self._client.log_batch(self._identity, metrics=metrics)

    def close(self) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self._identity)

    def _new_run(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "salt_jax")
        found = self._client.get_experiment_by_name(name)
        experiment = (
            self._client.create_experiment(name)
            if found is None
            else found.experiment_id
        )
        tags = {"workdir": str(run.workdir)}
        created = self._client.create_run(experiment, run_name=run.name, tags=tags)
        identity = str(created.info.run_id)
        params = [
            Param(name, str(value)[:_MOST_CHARACTERS])
            for name, value in _flat(run.experiment)
        ]
        for begin in range(0, len(params), _MOST_PARAMS):
            batch = params[begin : begin + _MOST_PARAMS]
            self._client.log_batch(identity, params=batch)
        return identity


def _uri(run: TrackedRun) -> str | None:
    """Returns where to keep the metrics; None if the environment says it."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return None
    if not is_local(run.workdir):
        raise ValueError(f"set MLFLOW_TRACKING_URI, because {run.workdir} is a bucket")
    return f"sqlite:///{run.workdir.resolve()}/mlflow.db"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested JSON with their dotted names."""
    if isinstance(value, (list, tuple)):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
