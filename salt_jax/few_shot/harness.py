"""Evaluates one model with lm-evaluation-harness, and writes its results."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.evaluator
from etils import epath
from lm_eval.api.instance import Instance
from lm_eval.loggers import EvaluationTracker

from salt_jax.few_shot.language_model import SaltLM
from salt_jax.few_shot.tasks import SEED, Tasks, seed_globals
from salt_jax.files.reading import read_file
from salt_jax.files.writing import write_file


def ask(
    lm: SaltLM, tasks: Tasks, *, limit: int | None, run_unsafe_code: bool = False
) -> dict[str, Any]:
    """Returns lm-eval's results, with the samples of each task.

    Every model gets the same questions with the same few-shot examples.

    Args:
      lm: The model.
      tasks: The tasks.
      limit: The maximum number of examples per task; None: all.
      run_unsafe_code: Whether to run code that the model writes.

    Raises:
      ValueError: a task cannot be evaluated, or needs `run_unsafe_code`.
    """
    seed_globals()  # Some tasks draw their questions anew for each model.
    for task in tasks.tasks.values():
        task.set_fewshot_seed(SEED)
    # Hides lm-eval's progress bars.
    with contextlib.redirect_stderr(io.StringIO()):
        return lm_eval.evaluator.evaluate(
            lm,
            tasks.loaded,
            limit=limit,
            confirm_run_unsafe_code=run_unsafe_code,
        )


def right_likelihoods(
    lm: SaltLM, task: Any, samples: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Returns the log-likelihood of the right answer of each sample, in nats.

    The samples contain it, except for generation tasks, which need another evaluation.
    """
    if task.OUTPUT_TYPE != "generate_until":
        return [_likelihood(task, sample) for sample in samples]
    delimiter = task.get_config("target_delimiter")
    asked = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(sample["arguments"][0][0], f"{delimiter}{_first(sample)}"),
            idx=0,
        )
        for sample in samples
    ]
    return [nats for nats, _ in lm.loglikelihood(asked)]


def _likelihood(task: Any, sample: Mapping[str, Any]) -> float:
    answers = [nats for nats, _ in sample["filtered_resps"]]
    if task.OUTPUT_TYPE != "multiple_choice":
        return answers[0]
    right = sample["target"]
    if getattr(task, "multiple_input", 0):  # The choices are questions, not answers.
        right = task.doc_to_text(sample["doc"])
    if isinstance(right, str):
        right = task.doc_to_choice(sample["doc"]).index(right)
    return max(answers[i] for i in (right if isinstance(right, list) else [right]))


def _first(sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    return str(target[0] if isinstance(target, list) else target)


def write_results(
    output: epath.PathLike,
    label: str,
    results: dict[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Writes `results_*.json` and `samples_TASK_*.jsonl` into a folder `label`.

    Args:
      output: The parent of that folder.
      label: The name of the model.
      results: The results of `ask`; lm-eval modifies the samples.
      config: The settings of the evaluation.

    Raises:
      OSError: a file could not be written.
    """
    with tempfile.TemporaryDirectory() as here:  # lm-eval writes to local folders only.
        tracker = EvaluationTracker(output_path=here)
        about = tracker.general_config_tracker
        about.log_experiment_args("salt_jax", {"model": label}, None, None, False)
        samples = results["samples"]
        kept = {name: value for name, value in results.items() if name != "samples"}
        tracker.save_results_aggregated(kept | {"config": dict(config)}, samples)
        names = [f"results_{tracker.date_id}.json"]
        for task, of_task in samples.items():
            tracker.save_results_samples(task, of_task)
            names.append(f"samples_{task}_{tracker.date_id}.jsonl")
        folder = str(about.model_name_sanitized)
        _copy(epath.Path(here) / folder, epath.Path(output) / folder, names)


def _copy(source: epath.Path, target: epath.Path, names: Sequence[str]) -> None:
    # lm-eval only logs a warning when it cannot write.
    if missing := [name for name in names if not (source / name).exists()]:
        raise OSError(f"lm-eval could not write {missing}.")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_file(target / name, read_file(source / name))
