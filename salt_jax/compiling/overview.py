"""One Markdown table of several JSON reports of the command `compile`.

python -m salt_jax.compiling.overview NAME.json ...                what fits
python -m salt_jax.compiling.overview --predicted NAME.json ...    predicted times

Standard input is the table so far, whose rows stand for reports that are not there.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from salt_jax.files.records import read_record
from salt_jax.mesh.memory import GIB

COLUMNS = (
    *("run", "pod", "program", "state", "teacher", "peak", "of", "products"),
    *("loss", "its embeddings", "its logits", "sent", "across slices", "compiled in"),
)
PREDICTED = (
    *("run", "pod", "program", "step", "products", "of them at peak"),
    *("other operations", "copies", "exposed", "across slices", "hidden"),
    *("MFU, %", "with recomputation, %", "to the plain step", "by FLOPs"),
)


class _Collective(TypedDict):
    bytes_per_chip: float
    across_slices: bool


class _Loss(TypedDict, total=False):
    matmul_seconds: float | None
    embedding_seconds: float | None
    logits_seconds: float | None


class _Prediction(TypedDict):
    seconds: float
    products_seconds: float
    products_at_peak_seconds: float
    other_seconds: float
    copies_seconds: float
    exposed_seconds: float
    exposed_across_slices_seconds: float
    sending_seconds: float
    mfu: float
    hfu: float


class _Program(TypedDict):
    bytes_held: dict[str, float]
    bytes_beside: dict[str, float]
    bytes_peak: float
    fits: bool
    matmul_seconds: float | None
    loss: _Loss | None
    prediction: NotRequired[_Prediction | None]
    flops_per_token: NotRequired[dict[str, float]]
    collectives: list[_Collective]
    lower_seconds: float
    compile_seconds: float


class _Report(TypedDict):
    topology: str
    num_slices: int
    usable_bytes_per_chip: float
    programs: dict[str, _Program]


def overview(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table with one row for each program of the named `reports`."""
    return _table(COLUMNS, reports, _rows)


def predictions(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table with one row for each program with a predicted time."""
    return _table(PREDICTED, reports, _predicted)


def table_of(
    paths: Sequence[pathlib.Path], *, predicted: bool = False, before: str = ""
) -> str:
    """Returns the table of the reports in files, named after the files.

    Args:
      paths: The reports, in the order of their rows.
      predicted: Whether it is the table of predicted times.
      before: An earlier table. It has the rows of runs whose file does not exist.

    Raises:
      ValueError: a report is damaged.
    """
    header, *_ = table = (predictions if predicted else overview)({}).splitlines()
    before = before if header in before else ""  # Of other columns: no row is kept.
    for path in paths:
        if path.exists():
            report = read_record(path, _Report, remedy="compile it again")
            rows_of = _predicted if predicted else _rows
            table += [_line(row) for row in rows_of(path.stem, report)]
        else:
            kept = before.splitlines()
            table += [line for line in kept if line.startswith(f"| {path.stem} |")]
    return "\n".join(table)


def _table(
    columns: Sequence[str],
    reports: Mapping[str, Mapping[str, Any]],
    rows_of: Callable[[str, Mapping[str, Any]], Iterator[Sequence[str]]],
) -> str:
    rows = [columns, ["---"] * len(columns)]
    for name, report in reports.items():
        rows += rows_of(name, report)
    return "\n".join(_line(row) for row in rows)


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def _predicted(name: str, report: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    programs = report["programs"]
    for program, about in programs.items():
        made = about.get("prediction")
        if made is None:
            continue
        exposed = made["exposed_seconds"], made["exposed_across_slices_seconds"]
        yield (
            *(name, f"{report['topology']} x {report['num_slices']}", program),
            *(_ms(made[f"{x}seconds"]) for x in ("", "products_", "products_at_peak_")),
            *(_ms(made[f"{x}_seconds"]) for x in ("other", "copies")),
            *(_ms(x) for x in (*exposed, made["sending_seconds"] - sum(exposed))),
            *(f"{100 * made[share]:.1f}" for share in ("mfu", "hfu")),
            *_to_plain(about, programs.values()),
        )


def _to_plain(
    about: Mapping[str, Any], programs: Iterable[Mapping[str, Any]]
) -> Sequence[str]:
    """Returns how much longer a step with a teacher takes, and by FLOPs alone."""
    if not about["flops_per_token"]["teacher_forward"]:
        return "", ""
    for plain in programs:
        bill, made = plain["flops_per_token"], plain.get("prediction")
        if made and bill["student_backward"] and not bill["teacher_forward"]:
            times = about["prediction"]["seconds"] / made["seconds"]
            flops = about["flops_per_token"]["total"] / bill["total"]
            return f"{times:.3f}", f"{flops:.3f}"
    return "", ""


def _rows(name: str, report: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    pod = f"{report['topology']} x {report['num_slices']}"
    usable = report["usable_bytes_per_chip"]
    for program, about in report["programs"].items():
        held, loss = about["bytes_held"], about["loss"] or {}
        # Memory that is in use while the program runs, but not by the program.
        beside = about["bytes_beside"]
        yield (
            *(name, pod, program),
            _gib(sum(held.get(x, 0) for x in ("parameters", "optimizer", "average"))),
            _gib(held.get("teacher", 0)),
            _gib(about["bytes_peak"] + sum(beside.values())),
            _gib(usable) if about["fits"] else f"{_gib(usable)}: does not fit",
            _ms(about["matmul_seconds"]),
            *(_ms(loss.get(f"{x}_seconds")) for x in ("matmul", "embedding", "logits")),
            _gib(_sent(about, across_slices=False)),
            _gib(_sent(about, across_slices=True)),
            f"{about['lower_seconds'] + about['compile_seconds']:.0f} s",
        )


def _sent(about: Mapping[str, Any], *, across_slices: bool) -> float:
    return sum(
        collective["bytes_per_chip"]
        for collective in about["collectives"]
        if collective["across_slices"] == across_slices
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size else ""


def _ms(seconds: float | None) -> str:
    return f"{1000 * seconds:,.0f}" if seconds else ""


if __name__ == "__main__":
    arguments = sys.argv[1:]
    predicted = arguments[:1] == ["--predicted"]
    paths = [pathlib.Path(name) for name in arguments[predicted:]]
    print(table_of(paths, predicted=predicted, before=sys.stdin.read()))
