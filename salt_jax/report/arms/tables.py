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
        return "\n".join([*lines, self.rows_markdown()]) + "\n"

    def rows_markdown(self) -> str:
        """Returns the header and the rows as Markdown."""
        rule = ["---", *["--:"] * (len(self.header) - 1)]
        return "\n".join(map(_line, (self.header, rule, *self.rows)))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def number(found: Estimate | None, form: str) -> str:
    """Returns a mean, and half of its 95 % interval, which one seed does not have."""
    if found is None:
        return "-"
    half = half_interval(found)
    shown = f"{found.mean:{form}}"
    return shown if half is None else f"{shown} \u00b1 {half:{form.lstrip('+')}}"


def percent(found: Estimate | None) -> str:
    """Returns a mean share in percent, and half of its 95 % interval."""
    if found is None:
        return "-"
    half = half_interval(found)
    some = "" if half is None else f" \u00b1 {100 * half:.0f}"
    return f"{100 * found.mean:.0f}{some} %"


def half_interval(found: Estimate) -> float | None:
    """Returns half the length of Student's interval; None for one seed."""
    return None if found.t is None else (found.t[1] - found.t[0]) / 2


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
