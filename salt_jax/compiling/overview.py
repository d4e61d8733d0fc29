"""One Markdown table of several JSON reports of the command `compile`.

python -m salt_jax.compiling.overview NAME.json ...
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from salt_jax.files.records import read_record
from salt_jax.mesh.memory import GIB

COLUMNS = (
    *("run", "pod", "program", "state", "teacher", "peak", "of", "products"),
    *("loss", "its embeddings", "its logits", "sent", "across slices", "compiled in"),
)


class _Collective(TypedDict):
    bytes_per_chip: float
    across_slices: bool


class _Loss(TypedDict, total=False):
    matmul_seconds: float | None
    embedding_seconds: float | None
    logits_seconds: float | None


class _Program(TypedDict):
    bytes_held: dict[str, float]
    bytes_beside: dict[str, float]
    bytes_peak: float
    fits: bool
    matmul_seconds: float | None
    loss: _Loss | None
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
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for name, report in reports.items():
        rows += _rows(name, report)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table_of(paths: Sequence[pathlib.Path]) -> str:
    """Returns the table of the reports in files, named after the files.

    Raises:
      ValueError: a report is damaged.
    """
    remedy = "compile it again"
    return overview({x.stem: read_record(x, _Report, remedy=remedy) for x in paths})


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
    print(table_of([pathlib.Path(name) for name in sys.argv[1:]]))
