"""A Markdown table of fine-tuning results over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.report.runs import Run
from salt_jax.report.seeds import Pair, with_error

# Columns: heading, metric, scale, format and unit.
_MEASURES = (
    ("exact match", "exact_match", 100, ".1f", " %"),
    ("F1", "f1", 1, ".3f", ""),
    ("ROUGE-L", "rougeL", 1, ".3f", ""),
    ("loss", "loss", 1, ".3f", ""),
)


def is_fine_tuned(run: Run) -> bool:
    """Returns whether a run was fine-tuned: evaluated on questions."""
    return all("columns" in split for split in run.evaluation["splits"].values())


def fine_tuned_table(pairs: Sequence[Pair]) -> str:
    """Returns a Markdown table of mean and standard error over seeds.

    Each set of questions has three rows (BASELINE, SALT, and their paired difference)
    for all of its questions, and three for each value of the set's first column. In
    brackets: Student's 95 % interval of the difference.

    Args:
      pairs: Runs of one set and one seed each, on any number of sets. The table shows
        the last split that was evaluated.

    Raises:
      ValueError: the runs of a pair have different sets, or different questions.
    """
    header = ["questions", "number", "start", *(name for name, *_ in _MEASURES)]
    lines = [_line(header), _line(["---", "--:", "---", *["--:"] * len(_MEASURES)])]
    for source in dict.fromkeys(_source(pair.baseline) for pair in pairs):
        of = [pair for pair in pairs if _source(pair.baseline) == source]
        both = [(_groups(pair.baseline), _groups(pair.salt)) for pair in of]
        for pair, (baseline, salt) in zip(of, both, strict=True):
            if _source(pair.salt) != source or {*baseline, *salt} != {*both[0][0]}:
                raise ValueError(
                    f"{pair.baseline.workdir} and {pair.salt.workdir} were not "
                    f"evaluated on the same questions of {source}: evaluate both again."
                )
        for group, means in both[0][0].items():
            name = f"{source.rpartition('/')[2]}: {group}"
            rows = [(x[group], y[group]) for x, y in both]
            lines += _lines(name, means["questions"], rows)
    return "\n".join(lines)


def _lines(
    name: str, count: int, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> list[str]:
    starts = {
        "BASELINE": lambda baseline, salt: baseline,
        "SALT": lambda baseline, salt: salt,
        "difference": lambda baseline, salt: salt - baseline,
    }
    lines = []
    for start, of in starts.items():
        cells = [name, f"{count:,}"] if start == "BASELINE" else ["", ""]
        sign = "+" if start == "difference" else ""
        for _, key, scale, form, unit in _MEASURES:
            values = [scale * of(x[key], y[key]) for x, y in pairs]
            cells.append(with_error(values, sign + form, interval=bool(sign)) + unit)
        lines.append(_line([*cells[:2], start, *cells[2:]]))
    return lines


def _groups(run: Run) -> dict[str, Mapping[str, Any]]:
    """Returns the means over all questions, and over each value of the first column."""
    *_, split = run.evaluation["splits"].values()
    columns: Mapping[str, dict[str, Any]] = split["columns"]
    first: dict[str, Any] = next(iter(columns.values()), {})
    return {"all": split["total"], **first}


def _source(run: Run) -> str:
    return run.experiment["validation"]["data"]["source"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
