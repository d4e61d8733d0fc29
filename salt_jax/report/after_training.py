"""Sections on trained models: few-shot tasks, fine-tuning and exports.

Each public function reads the files of a command and returns the HTML of a section.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.files.reading import read_file
from salt_jax.files.records import decode
from salt_jax.hugging_face.checksums import check_checksums
from salt_jax.report import page
from salt_jax.report.file_types import (
    EvaluationFile,
    ExperimentFile,
    FewShotFile,
    ModelConfigFile,
    SamplesFile,
)
from salt_jax.report.runs import read_json
from salt_jax.storage.export import Export

_PARTS_NOTE = (
    "Each task's examples in three equal parts by the teacher's score: easy, medium "
    "and hard."
)
_ANSWER_MEASURES = (
    ("exact_match", "Exact match, % ± SE", "{:.1%}"),
    ("f1", "F1", "{:.3f}"),
    ("rougeL", "ROUGE-L", "{:.3f}"),
    ("loss", "Loss", "{:.4f}"),
)


def few_shot(folder: epath.PathLike) -> str:
    """Returns the few-shot tables that `evaluate --tasks` wrote into `folder`.

    Raises:
      FileNotFoundError: there are none.
      ValueError: they are damaged.
    """
    path = epath.Path(folder) / "few_shot.json"
    tables = read_json(path, "evaluate --tasks", FewShotFile)
    for rows in (tables["tasks"], tables.get("slices") or tables["tasks"]):
        _check_rows(path, rows)
    parts = [
        page.note(
            "Evaluated with lm-evaluation-harness. SE is the standard error over "
            "examples; 2 SE on either side is about a 95 % interval. Accuracies are in "
            "percent. Chance is a random or trivial answer. Models of this size are "
            "near chance on most tasks."
        ),
        _marks_table(tables["tasks"]),
    ]
    if tables.get("slices"):
        sliced = _marks_table(tables["slices"])
        by_part = page.note(_PARTS_NOTE) + sliced
        parts.append(page.folded("By the teacher's score", by_part))
    return page.folded_section("Few-shot tasks", *parts)


def _check_rows(path: epath.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError if the rows of a table are not of the same models."""
    models = [sorted(row["marks"]) for row in rows]
    if not models or any(names != models[0] for names in models):
        raise ValueError(
            f"{path} has no rows, or rows of different models: run evaluate --tasks "
            "again."
        )


def _marks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    has_parts = any(row["part"] for row in rows)
    models = list(rows[0]["marks"])
    header = ["Task", "Metric", *["Part"] * has_parts, "Examples", "Shots", "Chance"]
    models_header = [f"{model} ± SE" for model in models]
    shown = [
        [
            row["name"],
            row["metric"],
            *[row["part"]] * has_parts,
            _or_blank(row["examples"]),
            _or_blank(row["shots"]),
            "" if row["chance"] is None else f"{100 * row['chance']:.1f}",
            *(_mark(row["marks"][model], row["is_share"]) for model in models),
        ]
        for row in rows
    ]
    means = sum(row["metric"] == "mean" for row in rows)
    return page.table([*header, *models_header], shown, totals=means)


def fine_tuned(workdirs: Sequence[epath.PathLike]) -> str:
    """Returns the answer scores of fine-tuned runs, one table per set of questions.

    Raises:
      FileNotFoundError: a run was not trained, or not evaluated.
      ValueError: two runs have the same set and start, or runs of a set were evaluated
        on different questions.
    """
    by_set: dict[str, dict[str, Mapping[str, Any]]] = {}
    samples: dict[str, list[str]] = {}
    for workdir in map(epath.Path, workdirs):
        experiment = read_json(workdir / "experiment.json", "train", ExperimentFile)
        name = epath.Path(experiment["stages"][-1]["data"]["source"]).name
        start = _start(experiment["initial_export"])
        evaluated = read_json(workdir / "evaluation.json", "evaluate", EvaluationFile)
        splits = evaluated["splits"]
        starts = by_set.setdefault(name, {})
        if start in starts:
            raise ValueError(
                f"{workdir} is a second run on {name} that started from {start!r}: the "
                "report shows one of each. Leave one out, or rename its export."
            )
        if starts and _questions(splits) != _questions(next(iter(starts.values()))):
            raise ValueError(
                f"{workdir} was evaluated on other questions of {name} than the other "
                "runs: evaluate all of them again."
            )
        starts[start] = splits
        written = read_json(workdir / "samples.json", "evaluate", SamplesFile)
        samples[f"{name}, from {start}"] = [
            f"Question: {sample['question']}\nAnswer:   {sample['answer']}\n"
            f"Wanted:   {sample['wanted']}"
            for sample in written["samples"]
        ]
    parts = [
        page.note(
            "Each student is fine-tuned with loss on the answers only, then answers "
            "all held-out questions with greedy decoding. One seed. SE is the standard "
            "error over questions."
        )
    ]
    for name, starts in by_set.items():
        parts += [page.heading(name), _answers_table(starts)]
    texts = [
        page.heading(title) + page.preformatted("\n\n".join(lines))
        for title, lines in samples.items()
    ]
    return page.folded_section(
        "Fine-tuned", *parts, page.folded("Sample answers", *texts)
    )


def _start(initial: str | Mapping[str, Any] | None) -> str:
    """Returns the name of the start of a run, from its `experiment.json`."""
    if isinstance(initial, Mapping):
        return f"{initial['type']} of {epath.Path(initial['export']).name}"
    return epath.Path(initial or "fresh parameters").name


def _questions(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the number of questions by split, column and value."""
    return {
        split: {
            column: {value: means["questions"] for value, means in values.items()}
            for column, values in {**said["columns"], "": {"": said["total"]}}.items()
        }
        for split, said in splits.items()
    }


def _answers_table(starts: Mapping[str, Mapping[str, Any]]) -> str:
    splits = next(iter(starts.values()))
    rows = []
    for split, said in splits.items():
        groups: list[tuple[str, ...]] = [()]
        groups += [
            (column, value)
            for column, values in said["columns"].items()
            for value in values
            if len(values) <= 4  # evaluation.json has the other groups.
        ]
        for group in groups:
            name = f"{split}: {group[1]}" if group else split
            for i, (start, found) in enumerate(starts.items()):
                means = _group(found[split], group)
                number = f"{means['questions']:,}"
                cells = [form.format(means[key]) for key, _, form in _ANSWER_MEASURES]
                cells[0] += f" ± {100 * _share_error(means):.1f}"
                first = ["", ""] if i else [name, number]
                rows.append([*first, start, *cells])
    header = ["Questions", "Number", "Start"]
    return page.table([*header, *(x for _, x, _ in _ANSWER_MEASURES)], rows, totals=0)


def _share_error(means: Mapping[str, Any]) -> float:
    """Returns the standard error over questions of the exact-match rate."""
    share = means["exact_match"]
    return math.sqrt(share * (1.0 - share) / means["questions"])


def _group(split: Mapping[str, Any], group: Sequence[str]) -> Mapping[str, Any]:
    return split["columns"][group[0]][group[1]] if group else split["total"]


def exports(folders: Sequence[epath.PathLike]) -> str:
    """Returns a table of exports, and the commands that use them.

    Raises:
      FileNotFoundError: a directory has neither an export nor a Hugging Face model.
    """
    rows = [[str(folder), *_about(epath.Path(folder))] for folder in folders]
    again = (
        "python -m salt_jax.main generate --export=DIR --prompt='Once upon a time'\n"
        "python -m salt_jax.main export --format=hf --export=DIR --output=OTHER"
    )
    table = page.table(["Directory", "Step", "Layers", "Format"], rows, totals=0)
    return page.folded_section("Exports", table, page.copyable(again))


def _about(folder: epath.Path) -> list[str]:
    if (folder / "config.json").exists():
        check_checksums(folder, ["config.json"])
        config = decode(
            read_file(folder / "config.json"),
            ModelConfigFile,
            where=str(folder / "config.json"),
            remedy="export it again with --format=hf",
        )
        kind = f"Hugging Face, {config['architectures'][0]}"
        return ["", f"{config['num_hidden_layers']}", kind]
    export = Export.open(folder)
    layers = f"{export.model.num_layers}"
    return [f"{export.provenance.get('step', '')}", layers, f"Orbax, {export.dtype}"]


def _mark(mark: Mapping[str, Any], is_share: bool) -> str:
    unit, value, error = (100.0 if is_share else 1.0), mark["value"], mark["stderr"]
    digits = 1 if is_share else _digits(value if error is None else error)
    number = f"{unit * value:.{digits}f}"
    return number if error is None else f"{number} ± {unit * error:.{digits}f}"


def _digits(number: float) -> int:
    """Returns the number of decimals that shows two significant digits."""
    if not number or not math.isfinite(number):
        return 2
    return max(0, 1 - math.floor(math.log10(abs(number))))


def _or_blank(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
