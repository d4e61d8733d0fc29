"""The held-out evaluation of a run that was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from salt_jax.config import Experiment
from salt_jax.data.json_files import write_json
from salt_jax.data.reading.answers import Answers
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.answers import evaluate_answers
from salt_jax.evaluation.held_out_loss import evaluate, table, write_evaluation
from salt_jax.evaluation.samples import samples
from salt_jax.mesh.memory import available_per_device, check_fits
from salt_jax.mesh.partitioning import bytes_per_device
from salt_jax.model.transformer import Params
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.export import Export
from salt_jax.training.program import Program


def evaluate_run(
    experiment: Experiment,
    workdir: epath.Path,
    *,
    step: str = "latest",
    export: epath.PathLike | None = None,
) -> str:
    """Writes `evaluation.json` and `samples.json` into `workdir`.

    Args:
      experiment: The run's.
      workdir: The run's folder.
      step: Of the checkpoint to evaluate: a number, "latest" or "best".
      export: Parameters to evaluate instead of a checkpoint.

    Returns:
      The evaluation as a table, a row for each split and domain, or column's value.

    Raises:
      FileNotFoundError: there is no such checkpoint or export.
      ValueError: it is of another model or vocabulary, or does not fit the devices.
    """
    program = Program.on(experiment)
    like = program.abstract_state.params
    device = program.partitioning.mesh.local_devices[0]
    check_fits({"parameters": bytes_per_device(like)}, available_per_device(device))
    if export is not None:
        at, params = _load_export(experiment, export, like)
    else:
        with Checkpointer.reading(workdir / "checkpoints") as saved:
            at = saved.step_named(step)
            params = saved.restore_params(at, like)
    results, written, shown = _evaluated(program, params)
    if jax.process_index() == 0:
        count = sum(x.size for x in jax.tree.leaves(params))
        workdir.mkdir(parents=True, exist_ok=True)
        write_evaluation(workdir / "evaluation.json", results, step=at, params=count)
        write_json(workdir / "samples.json", written)
    return shown


def _evaluated(
    program: Program, params: Params
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, str]], str]:
    """Returns an evaluation by split, samples of what is written, and a table."""
    validation = program.experiment.validation
    data = validation.data if validation else None
    if isinstance(data, Answers):
        answered = evaluate_answers(program, params)
        return answered.splits, answered.samples, str(answered)
    results = evaluate(program, params)
    return results, samples(program, params, data) if data else [], table(results)


def _load_export(
    experiment: Experiment, path: epath.PathLike, like: Any
) -> tuple[int, Params]:
    vocabulary = Vocabulary.open(experiment.stages[-1].data.vocabulary)
    export = Export.open_for(path, experiment.model, vocabulary)
    # The steps of an imported model are unknown.
    return export.provenance.get("step", 0), export.load(like)
