"""Few-shot evaluation of several exports on the same tasks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax.few_shot.metrics import Metric, task_metrics
from salt_jax.few_shot.slices import Samples, can_be_sliced, slice_rows, thirds
from salt_jax.few_shot.table import Row, rows
from salt_jax.files.records import write_record
from salt_jax.storage.export import Export
from salt_jax.storage.loaded import LoadedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Settings for asking an export few-shot questions."""

    num_fewshot: int | None = None  # Examples per prompt; None: the task's own number.
    limit: int | None = None  # Questions per task; None: all.
    max_length: int | None = None  # Context length [tokens]; None: as trained.
    batch_size: int = 8
    dtype: str | None = None  # The compute dtype; None: the export's.
    run_unsafe_code: bool = False  # Allow tasks that run code written by the model.
    # The `mesh` and `rules` of an experiment; empty: FSDP on all devices.
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def compare_exports(
    exports: Sequence[str],
    tasks: Sequence[str],
    options: AskOptions,
    output: epath.Path,
    *,
    slices_by: str | None = None,
) -> dict[str, list[Row]]:
    """Evaluates each export on all tasks; writes few_shot.json and lm-eval's files.

    Args:
      exports: The directories of the exports.
      tasks: Names of tasks or groups.
      options: Settings shared by all exports.
      output: The output directory.
      slices_by: An export whose likelihoods split the examples into thirds.

    Returns:
      The rows of each table, with one value per export.

    Raises:
      FileNotFoundError: there is no such export.
      ModuleNotFoundError: lm-eval is not installed.
      ValueError: a task or an export cannot be used, or a task's answers exceed the
        length of an export.
    """
    # Imported here: it needs the extra "eval", and is slow to import.
    from salt_jax.few_shot import tasks as named

    paths = _labels(exports)
    # The teacher only splits the examples, unless it is one of the exports.
    teacher = _label_of(slices_by, paths) if slices_by else None
    everyone = dict(paths)
    if teacher is not None and slices_by is not None:
        everyone[teacher] = slices_by
    lengths = {
        label: Export.open(path).max_length(options.max_length)
        for label, path in everyone.items()
    }
    known = named.load_tasks(tasks, options.num_fewshot)
    shortest = min(lengths, key=lambda label: lengths[label])
    named.check_room(known.tasks, lengths[shortest], shortest)
    if jax.process_index() == 0:
        _make(output)
    results = _Results(options, known, output, teacher)
    for label, path in everyone.items():
        results.ask(label, path)
    tables = results.tables(list(paths))
    if jax.process_index() == 0:
        _write(tables, output)
    return tables


class _Results:
    """Results of models on the same tasks."""

    def __init__(self, options, tasks, output, teacher):
        self._options, self._tasks = options, tasks
        self._output, self._teacher = output, teacher
        self._metrics = task_metrics(tasks.tasks, tasks.groups)
        self._results: dict[str, Mapping[str, Any]] = {}
        self._samples: dict[str, Mapping[str, Samples]] = {}
        self._parts: dict[Metric, Mapping[str, Sequence[int]]] = {}

    def ask(self, label: str, path: epath.PathLike) -> None:
        """Evaluates one model on all tasks, and writes its results."""
        from salt_jax.few_shot import harness
        from salt_jax.few_shot.language_model import SaltLM

        options = self._options
        loaded = LoadedModel.open(
            path, max_length=options.max_length, dtype=options.dtype, **options.where
        )
        lm = SaltLM(loaded, batch_size=options.batch_size, name=label)
        began = time.time()
        results = harness.ask(
            lm,
            self._tasks,
            limit=options.limit,
            run_unsafe_code=options.run_unsafe_code,
        )
        self._results[label] = results
        self._samples[label] = {
            task: [x for x in samples if x["filter"] == samples[0]["filter"]]
            for task, samples in results["samples"].items()
        }
        if label == self._teacher:
            self._split(lm, harness.right_likelihoods)
        if jax.process_index() == 0:
            config = {
                "model": "salt_jax",
                "model_args": {"export": str(path), "dtype": loaded.model.config.dtype},
                "max_length": loaded.max_length,
                "batch_size": options.batch_size,
                "limit": options.limit,
                "num_fewshot": options.num_fewshot,
            }
            harness.write_results(self._output, label, results, config)
        logging.info("Evaluated %s in %.0f s.", label, time.time() - began)

    def _split(self, lm: Any, right_likelihoods: Any) -> None:
        for measure in self._metrics:
            samples = self._samples[lm.name][measure.task]
            if can_be_sliced(measure, samples):
                task = self._tasks.tasks[measure.task]
                likelihoods = right_likelihoods(lm, task, samples)
                self._parts[measure] = thirds(samples, measure.metric, likelihoods)

    def tables(self, labels: Sequence[str]) -> dict[str, list[Row]]:
        """Returns the rows of each table, with one value per model of `labels`."""
        groups = self._tasks.groups
        results = {label: self._results[label] for label in labels}
        tables = {"tasks": rows(self._metrics, groups, results)}
        if self._teacher is not None:
            samples = {label: self._samples[label] for label in labels}
            tables["slices"] = slice_rows(self._parts, samples, groups)
        return tables


def _make(output: epath.Path) -> None:
    """Creates the output directory, so that a bad path fails before evaluation."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except ImportError as error:  # The file system of its URL is not installed.
        raise ValueError(f"--output={output} cannot be created: {error}.") from error


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """Returns the paths by label: the shortest suffixes that differ."""
    whole = [epath.Path(path).parts for path in paths]
    if len(set(whole)) < len(whole):
        raise ValueError(f"--export names a directory twice: {', '.join(paths)}.")
    count = 1
    while len({parts[-count:] for parts in whole}) < len(whole):
        count += 1
    return {
        "/".join(parts[-count:]): path for parts, path in zip(whole, paths, strict=True)
    }


def _label_of(path: str, labeled: Mapping[str, str]) -> str:
    same = [x for x, other in labeled.items() if epath.Path(other) == epath.Path(path)]
    return same[0] if same else f"teacher {epath.Path(path).name}"


def _write(tables: Mapping[str, Sequence[Row]], output: epath.Path) -> None:
    found = {name: [row.as_json() for row in rows] for name, rows in tables.items()}
    write_record(output / "few_shot.json", found)
