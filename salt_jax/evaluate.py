"""The evaluation of a trained run, or of an export, on held-out data."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from salt_jax.config import Experiment
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.mesh.memory import available_per_device, bytes_per_device, check_fits
from salt_jax.model.transformer import Params
from salt_jax.processes import job
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.export import Export
from salt_jax.storage.finite import check_finite
from salt_jax.training.program import Program


def evaluate_run(
    experiment: Experiment,
    workdir: epath.Path,
    *,
    step: str = "latest",
    export: epath.PathLike | None = None,
    average: bool = False,
) -> str:
    """Writes `evaluation.json` and `samples.json` into the run directory.

    Those of a moving average are `evaluation_average.json` and `samples_average.json`.

    Args:
      experiment: The run's experiment.
      workdir: The run directory.
      step: The checkpoint to evaluate: a number, "latest" or "best".
      export: An export to evaluate instead of a checkpoint.
      average: Whether to evaluate the moving average of the parameters.

    Returns:
      The metrics as a table: one row per split and domain, or per split and group.

    Raises:
      FileNotFoundError: the checkpoint, the export or a split is missing.
      ValueError: the parameters are of another model or vocabulary, or do not fit the
        devices; the run keeps no moving average; or the held-out data does not fit the
        experiment.
    """
    program = Program.on(experiment)
    like = program.abstract_state.params
    device = program.partitioning.mesh.local_devices[0]
    check_fits({"parameters": bytes_per_device(like)}, available_per_device(device))
    if export is not None:
        at, params = _load_export(experiment, export, like)
    else:
        saved = SavedCheckpoints.of(workdir / "checkpoints")
        at = saved.step_named(step)
        job.agree({"step": at, "checkpoint": saved.read_meta(at)})
        params = saved.restore_params(at, like, average=average)
        check_finite(params, f"Step {at} of {workdir}")
    evaluation = held_out_of(program).evaluate(params)
    if jax.process_index() == 0:
        count = sum(x.size for x in jax.tree.leaves(params))
        suffix = "_average" if average else ""
        evaluation.write(workdir, step=at, params=count, suffix=suffix)
    return evaluation.table


def _load_export(
    experiment: Experiment, path: epath.PathLike, like: Any
) -> tuple[int, Params]:
    vocabulary = Vocabulary.open(experiment.stages[-1].data.vocabulary)
    export = Export.open_for(path, experiment.model, vocabulary)
    job.agree({"export": export.fingerprint})
    # The steps of an imported model are unknown.
    return export.provenance.get("step", 0), export.load(like)
