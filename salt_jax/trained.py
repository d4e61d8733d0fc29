"""What is done with a run that was trained: it is evaluated, and exported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax.checkpoint import Checkpointer
from salt_jax.config import Experiment
from salt_jax.data.reading.answers import Answers
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluate import evaluate, table, write_evaluation
from salt_jax.export import Export
from salt_jax.export_writing import write_export
from salt_jax.fine_tuning.evaluation import evaluate_answers
from salt_jax.generation.samples import samples
from salt_jax.memory import available_per_device, check_fits
from salt_jax.model.transformer import Params
from salt_jax.partitioning import MeshShape, bytes_per_device
from salt_jax.program import Program


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
            at = _step(saved, step)
            params = saved.restore_params(at, like)
    results, written, shown = _evaluated(program, params)
    if jax.process_index() == 0:
        count = sum(x.size for x in jax.tree.leaves(params))
        workdir.mkdir(parents=True, exist_ok=True)
        write_evaluation(workdir / "evaluation.json", results, step=at, params=count)
        (workdir / "samples.json").write_text(json.dumps(written, indent=2) + "\n")
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


def export_run(
    experiment: Experiment,
    workdir: epath.Path,
    output: epath.Path,
    *,
    step: str = "latest",
    dtype: str = "float32",
) -> None:
    """Writes the parameters of a checkpoint to `output`, unless they are there.

    Args:
      experiment: The run's.
      workdir: The run's folder.
      output: The folder to write.
      step: A number, "latest" or "best".
      dtype: Of the parameters written: "float32" or "bfloat16".

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: something else is at `output`.
    """
    with Checkpointer.reading(workdir / "checkpoints") as saved:
        at = _step(saved, step)
        meta = saved.read_meta(at)
        provenance = {
            "workdir": str(workdir),
            "step": at,
            "experiment_fingerprint": meta["experiment_fingerprint"],
            "stage": meta["stage"],
        }
        if _is_exported(output, provenance, dtype):
            logging.info("Step %d of %s is exported to %s.", at, workdir, output)
            return
        # Nothing is computed: any devices will do, in a row.
        anywhere = dataclasses.replace(experiment, mesh=MeshShape(), num_microbatches=1)
        like = Program.on(anywhere).abstract_state.params
        params = saved.restore_params(at, like)
    write_export(
        output,
        params,
        model=experiment.model,
        vocabulary=Vocabulary.open(experiment.stages[-1].data.vocabulary).path,
        provenance=provenance,
        dtype=dtype,
        seq_len=experiment.seq_len,
    )
    logging.info("Exported step %d of %s to %s.", at, workdir, output)


def _load_export(
    experiment: Experiment, path: epath.PathLike, like: Any
) -> tuple[int, Params]:
    export = Export.open(path)
    export.check_model(experiment.model)
    vocabulary = Vocabulary.open(experiment.stages[-1].data.vocabulary)
    export.check_vocabulary(vocabulary.fingerprint, vocabulary.path)
    # One that was imported was trained elsewhere: its steps are not known.
    return export.provenance.get("step", 0), export.load(like)


def _is_exported(output: epath.Path, provenance: dict[str, Any], dtype: str) -> bool:
    """Returns whether the very same export is at `output`.

    Raises:
      ValueError: something else is.
    """
    if not output.exists():
        return False
    found = Export.open(output)
    other = [
        f"{name}={found.provenance.get(name)!r}, not {provenance[name]!r}"
        for name in ("step", "experiment_fingerprint")
        if found.provenance.get(name) != provenance[name]
    ]
    other += [f"dtype={found.dtype!r}, not {dtype!r}"] * (found.dtype != dtype)
    if other:
        raise ValueError(
            f"Another export is at {output}: {'; '.join(other)}. Remove it, or give "
            "another --output."
        )
    return True


def _step(saved: Checkpointer, wanted: str) -> int:
    steps = {"latest": saved.latest_step(), "best": saved.best_step()}
    if wanted not in steps and not wanted.isdecimal():
        raise ValueError(f"--step={wanted} is neither a number nor latest nor best.")
    step = steps[wanted] if wanted in steps else int(wanted)
    if step is None:
        raise FileNotFoundError(f"No {wanted} checkpoint in {saved.directory}.")
    return step
