"""A run directory: who works in it, whose it is, and what was run in it.

The files of one run must agree: experiment.json, metrics.jsonl and the checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.files.changes import changed_fields
from salt_jax.files.lease import LockedError
from salt_jax.files.lock import alone_in
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import is_local, write_file
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.telemetry.run_files import CHECKPOINTS, EXPERIMENT_FILE, METRICS_FILE

GIN_FILE = "config.gin"
EARLIER = "earlier_configs"


@contextlib.contextmanager
def held_by_this_job(workdir: epath.Path) -> Iterator[None]:
    """Keeps other jobs from working in a run directory; all processes must call it.

    Raises:
      LockedError: another job works in it.
    """
    if jax.process_count() == 1:
        with alone_in(workdir):
            yield
        return
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(alone_in(workdir))
            except (OSError, ValueError) as refusal:
                error = refusal
        is_held = multihost_utils.broadcast_one_to_all(np.int32(error is None))
        if error is not None:
            raise error
        if not is_held:
            raise LockedError(f"{workdir} is in use: process 0 says by whom.")
        yield


def check_files(
    workdir: epath.Path,
    experiment: Experiment,
    *,
    latest: int | None,
    accepted: Sequence[str],
) -> None:
    """Checks that experiment.json, metrics.jsonl and the checkpoints are of one run.

    Args:
      workdir: The run directory.
      experiment: What is to be run in it.
      latest: The step of the latest checkpoint; None without one.
      accepted: Dotted names of fields that may differ.

    Raises:
      ValueError: they are of another run, or the checkpoints are gone.
    """
    found = read_experiment(workdir)
    last = _last_step(workdir)
    if found is not None:
        measures = experiment.measures
        changed = changed_fields(
            config.without_operational(found, measures=measures),
            config.without_operational(config.as_json(experiment), measures=measures),
        )
        if refused := sorted(set(changed) - set(accepted)):
            raise ValueError(
                f"{workdir / EXPERIMENT_FILE} has other values of "
                f"{', '.join(refused)}: use another --workdir, remove this one, or "
                f"accept each with --accept_change={refused[0]}."
            )
    if latest is None and last and _had_checkpoints(workdir, found, last):
        raise ValueError(
            f"{workdir} has the metrics of steps up to {last}, but no checkpoint: "
            "starting over would erase them. Put its checkpoints/ back, use another "
            f"--workdir, or move {METRICS_FILE} away to start over."
        )
    if latest is not None and last + experiment.log_every < latest:
        logging.warning(
            "%s ends at step %d, and the latest checkpoint is of step %d: the records "
            "between them are lost.",
            workdir / METRICS_FILE,
            last,
            latest,
        )


def read_experiment(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns the experiment of a run directory as JSON; None if there is none.

    Raises:
      ValueError: the file is damaged.
    """
    path = workdir / EXPERIMENT_FILE
    if not path.exists():
        return None
    remedy = f"copy it from {EARLIER}/ or remove it"
    return read_record(path, dict[str, Any], remedy=remedy)


def write_config(
    workdir: epath.Path, experiment: Experiment, gin_text: str, *, step: int
) -> None:
    """Writes config.gin and experiment.json; keeps those of an earlier configuration.

    Only process 0 writes.

    Args:
      workdir: The run directory.
      experiment: What is run from `step` on.
      gin_text: The gin text behind it.
      step: The steps that the run has made before.
    """
    if jax.process_index() != 0:
        return
    gin, resolved = workdir / GIN_FILE, workdir / EXPERIMENT_FILE
    before, now = read_experiment(workdir), config.as_json(experiment)
    gin_before = gin.read_text() if gin.exists() else ""
    if before is not None and (before != now or gin_before != gin_text):
        kept = _new_name(workdir / EARLIER / f"until_step_{step}")
        write_file(kept / GIN_FILE, gin_before)
        write_record(kept / EXPERIMENT_FILE, before)
    write_file(gin, gin_text)
    write_record(resolved, now)


def _had_checkpoints(
    workdir: epath.Path, found: dict[str, Any] | None, last: int
) -> bool:
    """Returns whether a run whose metrics end at step `last` must have saved.

    A run that is killed before its first save is on disk has metrics and no checkpoint.
    It has made the folder, and has not begun a second save.
    """
    if found is None or (is_local(workdir) and not (workdir / CHECKPOINTS).exists()):
        return True
    every = found.get("save_every")
    return not isinstance(every, int) or last > 2 * every


def _last_step(workdir: epath.Path) -> int:
    if not (workdir / METRICS_FILE).exists():
        return 0
    return max((record["step"] for record in read_metrics(workdir)), default=0)


def _new_name(path: epath.Path) -> epath.Path:
    names = (path.parent / f"{path.name}_{n}" for n in range(2, 10**6))
    return path if not path.exists() else next(x for x in names if not x.exists())
