"""Exports the parameters of a checkpoint for use elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import logging
from etils import epath

from salt_jax.config import Experiment
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.writing import is_there
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.processes import job
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.export import CHAT_TEMPLATE, Export
from salt_jax.storage.export_writing import write_export
from salt_jax.storage.finite import check_finite
from salt_jax.storage.starts import export_of
from salt_jax.training.program import Program


def export_run(
    experiment: Experiment,
    workdir: epath.Path,
    output: epath.Path,
    *,
    step: str = "latest",
    dtype: str = "float32",
    average: bool = False,
) -> None:
    """Exports a checkpoint to `output`, unless that very export is there already.

    Args:
      experiment: The run's experiment.
      workdir: The run directory.
      output: The directory to write.
      step: The checkpoint to export: a number, "latest" or "best".
      dtype: The dtype of the exported parameters: "float32" or "bfloat16".
      average: Whether to export the moving average of the parameters.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: `output` holds something else, a number is not finite, or the run
        keeps no moving average.
    """
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    at = saved.step_named(step)
    meta = saved.read_meta(at)
    provenance = {
        "workdir": str(workdir),
        "step": at,
        "experiment_fingerprint": meta["experiment_fingerprint"],
        "stage": meta["stage"],
    }
    if average:
        saved.check_average(at)
        provenance["average"] = meta["experiment"]["average"]
    job.agree({"checkpoint": provenance})
    if _is_exported(output, provenance, dtype):
        logging.info("Step %d of %s is exported to %s.", at, workdir, output)
        return
    # Nothing is computed, so any number of devices in a row will do.
    anywhere = dataclasses.replace(experiment, mesh=MeshShape(), num_microbatches=1)
    like = Program.on(anywhere).abstract_state.params
    params = saved.restore_params(at, like, average=average)
    check_finite(params, f"Step {at} of {workdir}")
    write_export(
        output,
        params,
        model=experiment.model,
        vocabulary=Vocabulary.open(experiment.stages[-1].data.vocabulary).path,
        provenance=provenance,
        dtype=dtype,
        seq_len=experiment.seq_len,
        files=_chat_template(export_of(experiment.initial_export)),
    )
    logging.info("Exported step %d of %s to %s.", at, workdir, output)


def _chat_template(initial: str | None) -> dict[str, str]:
    """Returns the chat template of the model that the run started from, as a file."""
    path = initial and epath.Path(initial) / CHAT_TEMPLATE
    return {CHAT_TEMPLATE: path.read_text()} if path and path.exists() else {}


def _is_exported(output: epath.Path, provenance: dict[str, Any], dtype: str) -> bool:
    """Returns whether `output` is this very export; False if there is nothing.

    Raises:
      ValueError: `output` is another export, or no export.
    """
    if not is_there(output):
        return False
    found = Export.open(output)
    other = [
        f"{name}={found.provenance.get(name)!r}, not {provenance.get(name)!r}"
        for name in ("step", "experiment_fingerprint", "average")
        if found.provenance.get(name) != provenance.get(name)
    ]
    other += [f"dtype={found.dtype!r}, not {dtype!r}"] * (found.dtype != dtype)
    if other:
        raise ValueError(
            f"Another export is at {output}: {'; '.join(other)}. Remove it, or give "
            "another --output."
        )
    return True
