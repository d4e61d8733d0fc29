"""Checks that a resumed run matches the run it resumes, and restores its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.data.reading import batch_ranges
from salt_jax.files.changes import changed_fields
from salt_jax.optim.guard import UpdateGuard
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry import versions
from salt_jax.training.position import Position
from salt_jax.training.program import Program
from salt_jax.training.train_step import TrainState


def check_experiment(
    experiment: Experiment, meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Checks that the experiment is the one that the checkpoint was saved by.

    Args:
      experiment: The experiment to resume.
      meta: The checkpoint's `meta`; empty if there is no checkpoint.
      accepted: Dotted names of fields that may differ.

    Raises:
      ValueError: another field that affects the run's numbers differs, or an accepted
        one cannot change without reading rows twice.
    """
    if not meta:
        return
    before, now = meta["experiment"], config.as_json(experiment)
    measures = experiment.measures
    changed = changed_fields(
        config.without_operational(before, measures=measures),
        config.without_operational(now, measures=measures),
    )
    refused = sorted(set(changed) - set(accepted))
    if refused:
        raise ValueError(
            f"The run was started with other values of {', '.join(refused)}: use "
            f"another --workdir, or accept each with --accept_change={refused[0]}."
        )
    if "seq_len" in changed:
        rows = Position.of(meta).rows
        raise ValueError(
            f"The run has read {rows:,} rows of seq_len={before['seq_len']}; rows of "
            f"seq_len={experiment.seq_len} have another order, so it would read some "
            "text twice and some never. Start another run from an export of this one "
            "(initial_export)."
        )
    if any(x.startswith("batch_size") for x in changed) and "position" not in meta:
        raise ValueError(
            f"batch_size was {before['batch_size']}, and the checkpoint does not say "
            "how many rows were read: it is of an older salt_jax."
        )
    for name in changed:
        logging.warning("Accepted: another value of %s.", name)
    if "seed" in changed:
        logging.warning("Rows are in the order of the new seed: some may be repeated.")


def log_other_versions(meta: Mapping[str, Any]) -> None:
    """Logs a line for each package whose version is not that of the checkpoint."""
    now = versions.of_packages()
    for name, before in meta.get("versions", {}).items():
        if (found := now.get(name, "not recorded")) != before:
            logging.warning(
                "%s was %s at the checkpoint, and is %s.", name, before, found
            )


def check_skipped(
    experiment: Experiment,
    meta: Mapping[str, Any],
    step: int,
    accepted: Sequence[str],
) -> None:
    """Checks that no batch of the first `step` steps is left out or put back.

    Args:
      experiment: The experiment to resume.
      meta: The checkpoint's `meta`; empty if there is no checkpoint.
      step: The step of the checkpoint.
      accepted: Names of fields that may differ; "skip_batches" accepts everything.

    Raises:
      ValueError: these steps were made with other `skip_batches`.
    """
    if "skip_batches" in accepted:
        return
    then = batch_ranges.before(meta.get("experiment", {}).get("skip_batches", ()), step)
    now = batch_ranges.before(experiment.skip_batches, step)
    if then != now:
        raise ValueError(
            f"The run left out the batches {then or '()'} of the first {step} and "
            f"skip_batches now has {now or '()'} there: it may change from batch "
            f"{step} on, where the run resumes. Restore the earlier ranges, resume "
            "from an earlier step, or accept with --accept_change=skip_batches."
        )


def restore(
    program: Program,
    saved: SavedCheckpoints,
    meta: Mapping[str, Any],
    step: int | None,
) -> TrainState | None:
    """Returns the state of the checkpoint of `step`, or None without one.

    A guard that the run did not have, or one with another window, begins anew. So do a
    moving average and a factor of the teacher's weight that it did not have.

    Args:
      program: The program of the experiment.
      saved: The checkpoints of the run.
      meta: Its `meta`.
      step: The step of the checkpoint; None: there is none.

    Raises:
      ValueError: the checkpoint is damaged, or of another model or optimizer.
      OSError: the storage failed.
    """
    if step is None:
        return None
    state = saved.restore(step, _as_saved(program, meta, saved.record(step).arrays))
    guard, average = program.experiment.guard, program.experiment.average
    if (state.guard and len(state.guard.losses_W)) != (guard and guard.window):
        fresh = None if guard is None else program.partitioning.materialize(guard.init)
        state = dataclasses.replace(state, guard=fresh)
    if (state.average is None) != (average is None):
        fresh = program.fresh_average(state.params)
        state = dataclasses.replace(state, average=fresh)
    if (state.kd_factor is None) != (program.abstract_state.kd_factor is None):
        unset = state.kd_factor is None
        fresh = program.partitioning.materialize(_no_factor) if unset else None
        state = dataclasses.replace(state, kd_factor=fresh)
    return state


def _as_saved(
    program: Program, meta: Mapping[str, Any], arrays: Collection[str]
) -> TrainState:
    """Returns the state of a checkpoint as shapes, dtypes and shardings.

    Args:
      program: The program that resumes the run.
      meta: The checkpoint's `meta`.
      arrays: The names of its arrays.
    """
    like, experiment = program.abstract_state, meta.get("experiment", {})
    guard = average = factor = None
    if (was := experiment.get("guard")) is not None:
        guard = program.partitioning.abstract(UpdateGuard(window=was["window"]).init)
    if experiment.get("average") is not None:
        average = program.abstract_average
    if "kd_factor" in arrays:
        factor = program.partitioning.abstract(_no_factor)
    return dataclasses.replace(like, guard=guard, average=average, kd_factor=factor)


def _no_factor() -> jax.Array:
    return jnp.ones(())


def check_inputs(
    inputs: Mapping[str, str], meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Checks that the data and the teachers are those that the run started with.

    The same path may hold other contents: data can be prepared again, scores computed
    again, a teacher exported again.

    Args:
      inputs: Fingerprints by name, as `StageInputs.fingerprints` returns them.
      meta: The checkpoint's `meta`; empty if there is no checkpoint.
      accepted: Names in `inputs` that may differ.

    Raises:
      ValueError: another fingerprint differs.
    """
    before = meta.get("inputs", {})
    changed = sorted(
        name
        for name, fingerprint in inputs.items()
        if before.get(name, fingerprint) != fingerprint and name not in accepted
    )
    if changed:
        name = changed[0]
        raise ValueError(
            f"The contents of {', '.join(changed)} changed since the run was started "
            f"({name} had the fingerprint {before[name][:12]} and has "
            f"{inputs[name][:12]}). Restore the old contents, use another --workdir, "
            f"or accept each with --accept_change={name}."
        )
