"""The command evaluate with --tasks: what is asked for, and what is printed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import gin_config
from salt_jax.config import Experiment
from salt_jax.few_shot.measures import Measure, measures
from salt_jax.few_shot.slices import Samples, can_be_sliced, slice_rows, thirds
from salt_jax.few_shot.table import Row, render, rows
from salt_jax.storage.export import Export
from salt_jax.storage.loaded import LoadedModel


def run(options: argparse.Namespace) -> None:
    """Asks each export all tasks, prints a table, and writes what lm-eval would.

    Raises:
      FileNotFoundError: there is no such export, or gin file.
      ValueError: lm-eval is not installed; an option, a task or an export cannot be
        used, or an export has no room for the answers of a task.
    """
    _check(options)
    where = _where(options)
    try:
        # In an extra, and slow to import.
        from salt_jax.few_shot import tasks as named
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("lm_eval", "datasets"):
            raise
        raise ValueError(
            "--tasks needs lm-evaluation-harness, which is not installed: run "
            "pip install -e '.[eval]'."
        ) from error
    paths = _labels(options.export)
    # The last is only looked at for how well it does on each example.
    teacher = _label_of(options.slices_by, paths) if options.slices_by else None
    everyone = paths if teacher is None else {**paths, teacher: options.slices_by}
    lengths = {x: _length(y, options.max_length) for x, y in everyone.items()}
    tasks = named.load_tasks(_names(options), options.num_fewshot)
    shortest = min(lengths, key=lambda label: lengths[label])
    named.check_room(tasks.tasks, lengths[shortest], shortest)
    output = epath.Path(options.output or "runs/few_shot")
    if jax.process_index() == 0:
        _make(output)
    asked = _Asked(options, where, tasks, output, teacher)
    for label, path in everyone.items():
        asked.ask(label, path)
    tables = asked.tables(list(paths))
    if jax.process_index() == 0:
        _show(tables, output)


class _Asked:
    """What models have said."""

    def __init__(self, options, where, tasks, output, teacher):
        self._options, self._where, self._tasks = options, where, tasks
        self._output, self._teacher = output, teacher
        self._measures = measures(tasks.tasks, tasks.groups)
        self._results: dict[str, Mapping[str, Any]] = {}
        self._samples: dict[str, Mapping[str, Samples]] = {}
        self._parts: dict[Measure, Mapping[str, Sequence[int]]] = {}

    def ask(self, label: str, path: epath.PathLike) -> None:
        """Asks one model all tasks, and writes what it said."""
        from salt_jax.few_shot import harness
        from salt_jax.few_shot.language_model import SaltLM

        options = self._options
        loaded = LoadedModel.open(
            path,
            max_length=options.max_length,
            dtype=options.dtype,
            **self._where,
        )
        lm = SaltLM(loaded, batch_size=options.batch_size, name=label)
        began = time.time()
        results = harness.ask(
            lm,
            self._tasks,
            limit=options.limit,
            run_unsafe_code=options.confirm_run_unsafe_code,
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
        logging.info("Asked %s in %.0f s.", label, time.time() - began)

    def _split(self, lm: Any, right_likelihoods: Any) -> None:
        for measure in self._measures:
            samples = self._samples[lm.name][measure.task]
            if can_be_sliced(measure, samples):
                task = self._tasks.tasks[measure.task]
                likelihoods = right_likelihoods(lm, task, samples)
                self._parts[measure] = thirds(samples, measure.metric, likelihoods)

    def tables(self, labels: Sequence[str]) -> dict[str, list[Row]]:
        """Returns the rows of each table, with the models `labels` side by side."""
        groups = self._tasks.groups
        results = {label: self._results[label] for label in labels}
        tables = {"tasks": rows(self._measures, groups, results)}
        if self._teacher is not None:
            samples = {label: self._samples[label] for label in labels}
            tables["slices"] = slice_rows(self._parts, samples, groups)
        return tables


def _check(options: argparse.Namespace) -> None:
    if not options.export:
        raise ValueError("--tasks are for exports: give --export=DIR, once or more.")
    if not all(_names(options)):
        raise ValueError(f"--tasks={options.tasks} has an empty name.")


def _names(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in options.tasks.split(",")]


def _length(path: epath.PathLike, max_length: int | None) -> int:
    """Returns the tokens that an export is to read and write together."""
    export = Export.open(path)
    length = export.seq_len if max_length is None else max_length
    if length is None:
        raise ValueError(
            f"The export at {export.path} does not say how many tokens it has learnt "
            "to read: give --max_length=N."
        )
    return length


def _make(output: epath.Path) -> None:
    """Makes the folder now: an hour later it would be a pity if it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except ImportError as error:  # What its kind of path is reached by.
        raise ValueError(f"--output={output} cannot be reached: {error}.") from error


def _where(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the mesh and rules of the experiment, if one is given."""
    if not options.gin_file:
        return {}
    job = gin_config.load(options.gin_file, options.gin_bindings)
    if not isinstance(job, Experiment):
        raise ValueError(
            f"{options.gin_file[-1]} binds {type(job).__name__}; evaluate takes the "
            "mesh of an Experiment."
        )
    return {"mesh": job.mesh, "rules": job.rules}


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """Returns the paths by what they are called: as much of their end as tells."""
    whole = [epath.Path(path).parts for path in paths]
    if len(set(whole)) < len(whole):
        raise ValueError(f"--export names one folder twice: {', '.join(paths)}.")
    count = 1
    while len({parts[-count:] for parts in whole}) < len(whole):
        count += 1
    return {
        "/".join(parts[-count:]): path for parts, path in zip(whole, paths, strict=True)
    }


def _label_of(path: str, labelled: Mapping[str, str]) -> str:
    same = [x for x, other in labelled.items() if epath.Path(other) == epath.Path(path)]
    return same[0] if same else f"teacher {epath.Path(path).name}"


def _show(tables: Mapping[str, Sequence[Row]], output: epath.Path) -> None:
    for found in tables.values():
        print(render(found) if found else "No task can be split.", end="\n\n")
    text = json.dumps(
        {name: [row.as_json() for row in found] for name, found in tables.items()},
        indent=2,
    )
    (output / "few_shot.json").write_text(text + "\n")
    print(f"All numbers and answers are in {output}.")
