"""A table that is shown on the page and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.report import page
from salt_jax.report.arms.results import Result, Students
from salt_jax.report.intervals import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text, the first cell naming the row.

    Raises:
      ValueError: a row has not as many cells as the header.
    """

    title: str
    note: str = ""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title}: {list(row)} is no row of its header.")

    def html(self) -> str:
        """Returns the table as a part of the page."""
        note = [page.note(self.note)] if self.note else []
        body = page.table(self.header, self.rows, totals=0)
        return "\n".join([page.heading(self.title), *note, body])

    def markdown(self) -> str:
        """Returns the table as Markdown, with its title."""
        lines = [f"### {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += [_line(self.header), _line(["---", *["--:"] * (len(self.header) - 1)])]
        return "\n".join([*lines, *map(_line, self.rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def number(found: Estimate | None, form: str) -> str:
    """Returns a mean with its 95 % interval, which one seed does not have."""
    if found is None:
        return "-"
    if found.t is None:
        return f"{found.mean:{form}}"
    return f"{found.mean:{form}} [{found.t[0]:{form}}, {found.t[1]:{form}}]"


def percent(found: Estimate | None) -> str:
    """Returns a mean share with its 95 % interval in percent."""
    if found is None:
        return "-"
    text = f"{100 * found.mean:.0f} %"
    if found.t is None:
        return text
    return f"{text} [{100 * found.t[0]:.0f}, {100 * found.t[1]:.0f}]"


def passing(result: Result | None, what: str) -> str:
    """Returns the share at which the reference's final loss is passed.

    If some seeds never pass there is no mean: the number of those that do.
    """
    if result is None:
        return "-"
    if result.passed < len(result.seeds):
        none = "never" if len(result.seeds) == 1 else f"0 of {len(result.seeds)}"
        some = f"{result.passed} of {len(result.seeds)} seeds"
        return some if result.passed else none
    return percent(result.shares[what])


def students(found: Students | None) -> str:
    """Returns the number of students from which it pays, with that of the interval."""
    if found is None:
        return "-"
    ends = [_count(found.fewest), _count(found.most)]
    shown = _count(found.count)
    return shown if ends == [shown, shown] else f"{shown} [{', '.join(ends)}]"


def _count(count: int | None) -> str:
    return "never" if count is None else f"{count:,}"
