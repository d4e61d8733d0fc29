"""What a report says of models once they are trained: tasks, fine-tuning, exports.

Every function reads what commands have written, and returns the HTML of a section.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.report import page
from salt_jax.storage.export import Export

_PARTS_NOTE = (
    "Each task's examples in three equal parts, by how the teacher itself did on each: "
    "easy, medium and hard."
)
_ANSWER_MEASURES = {
    "exact_match": ("Exact match", "{:.1%}"),
    "f1": ("F1", "{:.3f}"),
    "rougeL": ("ROUGE-L", "{:.3f}"),
    "loss": ("Loss", "{:.4f}"),
}


def few_shot(folder: epath.PathLike) -> str:
    """Returns the few-shot tables that `evaluate --tasks` wrote into `folder`.

    Raises:
      FileNotFoundError: it wrote none.
    """
    tables = _read_json(epath.Path(folder) / "few_shot.json", "evaluate --tasks")
    parts = [
        page.note(
            "Asked through lm-evaluation-harness. Shares are in percent, with standard "
            "errors over examples; chance is guessing, or a trivial answer. Models of "
            "this size are near chance at most of it."
        ),
        _marks_table(tables["tasks"]),
    ]
    if tables.get("slices"):
        sliced = _marks_table(tables["slices"])
        parts.append(page.folded("The same by the teacher's own score", sliced))
        parts.append(page.note(_PARTS_NOTE))
    return page.section("Few-shot tasks", *parts)


def _marks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    has_parts = any(row["part"] for row in rows)
    models = list(rows[0]["marks"])
    header = ["Task", "Metric", *["Part"] * has_parts, "Examples", "Shots", "Chance"]
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
    return page.table([*header, *models], shown, totals=means)


def fine_tuned(workdirs: Sequence[epath.PathLike]) -> str:
    """Returns the answers' scores of runs that were fine-tuned, side by side by set.

    Raises:
      FileNotFoundError: a run was not trained, or not evaluated.
      ValueError: two runs would stand in one column, or runs of a set were evaluated on
        different questions.
    """
    by_set: dict[str, dict[str, Mapping[str, Any]]] = {}
    samples: dict[str, list[str]] = {}
    for workdir in map(epath.Path, workdirs):
        experiment = _read_json(workdir / "experiment.json", "train")
        name = epath.Path(experiment["stages"][-1]["data"]["source"]).name
        start = epath.Path(experiment["initial_export"] or "fresh parameters").name
        splits = _read_json(workdir / "evaluation.json", "evaluate")["splits"]
        starts = by_set.setdefault(name, {})
        if start in starts:
            raise ValueError(
                f"{workdir} is a second run on {name} that started from {start!r}: the "
                "report shows one of each. Leave one out, or name its export otherwise."
            )
        if starts and _questions(splits) != _questions(next(iter(starts.values()))):
            raise ValueError(
                f"{workdir} was evaluated on other questions of {name} than the runs "
                "beside it: evaluate all of them again."
            )
        starts[start] = splits
        written = _read_json(workdir / "samples.json", "evaluate")
        samples[f"{name}, from {start}"] = [
            f"Question: {sample['question']}\nAnswer:   {sample['answer']}\n"
            f"Wanted:   {sample['wanted']}"
            for sample in written
        ]
    parts = [
        page.note(
            "Each student was fine-tuned on questions and answers, the loss counting "
            "answers only, and then answered all held-out questions greedily. One seed."
        )
    ]
    for name, starts in by_set.items():
        parts += [page.heading(name), _answers_table(starts)]
    texts = [
        page.heading(title) + page.preformatted("\n\n".join(lines))
        for title, lines in samples.items()
    ]
    return page.section(
        "Fine-tuned", *parts, page.folded("Some of their answers", *texts)
    )


def _questions(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how many questions of which kinds were asked."""
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
            if len(values) <= 4  # Of many groups, evaluation.json has the rest.
        ]
        for group in groups:
            name = f"{split}: {group[1]}" if group else split
            of = [_group(found[split], group) for found in starts.values()]
            cells = [
                form.format(means[key])
                for key, (_, form) in _ANSWER_MEASURES.items()
                for means in of
            ]
            rows.append([name, f"{of[0]['questions']:,}", *cells])
    header = ["Questions of", "Number"]
    header += [
        f"{title}, from {start}"
        for title, _ in _ANSWER_MEASURES.values()
        for start in starts
    ]
    return page.table(header, rows, totals=0)


def _group(split: Mapping[str, Any], group: Sequence[str]) -> Mapping[str, Any]:
    return split["columns"][group[0]][group[1]] if group else split["total"]


def exports(folders: Sequence[epath.PathLike]) -> str:
    """Returns where parameters are, and what to do with them.

    Raises:
      FileNotFoundError: there is no export, nor a model for Hugging Face.
    """
    rows = [[str(folder), *_about(epath.Path(folder))] for folder in folders]
    again = (
        "python -m salt_jax.main generate --export=DIR --prompt='Once upon a time'\n"
        "python -m salt_jax.main export --format=hf --export=DIR --output=OTHER"
    )
    table = page.table(["Folder", "Step", "Layers", "Format"], rows, totals=0)
    return page.section("Where the exports are", table, page.preformatted(again))


def _about(folder: epath.Path) -> list[str]:
    if (folder / "config.json").exists():
        config = _read_json(folder / "config.json", "export --format=hf")
        kind = f"Hugging Face, {config['architectures'][0]}"
        return ["", f"{config['num_hidden_layers']}", kind]
    export = Export.open(folder)
    layers = f"{export.model.num_layers}"
    return [f"{export.provenance.get('step', '')}", layers, f"Orbax, {export.dtype}"]


def _mark(mark: Mapping[str, Any], is_share: bool) -> str:
    unit, form = (100.0, ".1f") if is_share else (1.0, ".4g")
    value = f"{unit * mark['value']:{form}}"
    error = mark["stderr"]
    return value if error is None else f"{value} ± {unit * error:{form}}"


def _or_blank(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _read_json(path: epath.Path, command: str) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"No {path}: the command {command!r} writes it.")
    return json.loads(path.read_text())
