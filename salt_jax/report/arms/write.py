"""Writes the page of a laboratory, its numbers, and its tables in Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.report import page
from salt_jax.report.arms import (
    answer,
    bills,
    domains,
    few_shot,
    in_document,
    pictures,
    sections,
    thirds,
)
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import ArmResult, results
from salt_jax.report.arms.tables import Table
from salt_jax.report.pictures import Picture
from salt_jax.telemetry.recorded_commands import read_commands, with_commands

PAGE_FILE = "lab.html"
SUMMARY_FILE = "summary.json"
TABLES_FILE = "tables.md"


def write_lab_report(
    folder: epath.PathLike,
    into: epath.PathLike | None = None,
    *,
    brief: bool = False,
) -> epath.Path:
    """Writes the page of the laboratory whose `lab.json` is in `folder`.

    Beside it: `summary.json`, the numbers of all arms; `tables.md`, the tables in
    Markdown; and each figure as SVG and as the JSON that it draws. What is not there
    yet, a run or an evaluation, is named and left out.

    Args:
      folder: Where `lab.json` is.
      into: A Markdown document that gets the main tables, between its marks of this
        laboratory; None: no document does.
      brief: Whether the document gets one table of the main columns instead.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: there is no `lab.json`, or no such document.
      ValueError: a file is damaged, runs were validated on different rows, or the
        document has no marks.
    """
    folder = epath.Path(folder)
    lab = Laboratory.read(folder)
    found = results(lab)
    said = [answer.progress(lab), *answer.findings(lab, found)]
    main = list(sections.main_tables(lab, found))
    more = list(_more_tables(lab, found))
    title = answer.title(lab, found)
    summary = {
        "lab": lab.file.name,
        "reference": lab.file.reference,
        "seeds": list(lab.file.seeds),
        "chosen_on": list(lab.file.chosen_on),
        "title": title,
        "answer": said,
        "arms": [arm.describe() for arm in found],
        "few_shot": {k: x.describe() for k, x in few_shot.averages(lab).items()},
    }
    write_record(folder / SUMMARY_FILE, summary)
    made_by = read_commands(with_commands([folder]))
    write_file(folder / TABLES_FILE, _markdown([*main, *more], made_by))
    if into is not None:
        text = "\n\n".join(_for_document(lab, found, made_by, brief))
        in_document.put(into, lab.file.name, text)
    html = page.document(
        title,
        *map(page.paragraph, said),
        *(table.html() for table in main),
        page.note(_NOTE.format(lab.file.reference)),
        *_write(folder, pictures.overview(lab, found)),
        *_curves(folder, lab),
        *_folded(folder, lab),
        *(page.folded_section(table.title, table.html()) for table in more),
        page.folded_section("Commands", *_commands(lab, made_by)),
        page.link(SUMMARY_FILE, "All numbers (JSON)"),
    )
    write_file(folder / PAGE_FILE, html)
    return folder / PAGE_FILE


_NOTE = (
    "After \u00b1, and in brackets: the 95 % interval over seeds (Student's t). Final "
    "loss: the last validation, nats per token; its difference is taken seed by seed, "
    "and a negative one favors the arm. Passes at: the point where the arm's held-out "
    "loss, linear between validations, first reaches {0}'s final one, as a share of "
    "what {0} spends in all; FLOPs and chip-seconds are those of student and teacher. "
    "Pays from: the least number of students for which one student's training and its "
    "share of what all need beforehand, small models and scores, cost fewer FLOPs than "
    "{0}; by chip-seconds, and the bill itself: in Costs."
)
_UNFOLDED = 3  # Groups of arms whose curves are shown at once.


def _write(folder: epath.Path, drawn: Iterable[tuple[str, Picture]]) -> Iterator[str]:
    for name, picture in drawn:
        yield picture.write(folder, name)


def _curves(folder: epath.Path, lab: Laboratory) -> list[str]:
    shown = list(_write(folder, pictures.differences(lab)))
    if len(shown) <= _UNFOLDED:
        return shown
    title = f"Held-out loss minus {lab.file.reference}'s, against steps"
    return [page.folded_section(title, *shown)]


def _folded(folder: epath.Path, lab: Laboratory) -> Iterator[str]:
    for title, drawn in (
        ("Held-out loss against steps", pictures.losses(lab)),
        ("Few-shot average against steps", pictures.few_shot(lab)),
        ("Distance from the teacher, and gradients", pictures.metrics(lab)),
    ):
        if shown := list(_write(folder, drawn)):
            yield page.folded_section(title, *shown)


def _more_tables(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[Table]:
    yield sections.cost_table(lab, found)
    yield sections.interval_table(found)
    yield sections.seeds_table(lab, found)
    if (asked := few_shot.few_shot_table(few_shot.averages(lab))) is not None:
        yield asked
    yield from domains.domain_tables(lab, found)
    yield from thirds.difficulty_tables(lab, found)
    if (kept := bills.bills_table(lab)) is not None:
        yield kept
    yield sections.status_table(lab)


def _commands(lab: Laboratory, made_by: Sequence[str]) -> Iterator[str]:
    yield page.note("In an order in which they can run. One click selects all.")
    runs = [
        f"python -m salt_jax.main {shlex.join(each.argv)}" for each in lab.file.nodes
    ]
    yield page.copyable("\n".join([*runs, *made_by]))


def _for_document(
    lab: Laboratory, found: Sequence[ArmResult], made_by: Sequence[str], brief: bool
) -> Iterator[str]:
    """Yields the parts of what a document gets: nothing of arms without a result."""
    yield answer.progress(lab)
    known = [arm for arm in found if arm.pairs]
    if brief:
        yield sections.brief_table(lab, known).rows_markdown()
    else:
        for table in sections.main_tables(lab, known):
            yield table.markdown().strip()
    if missing := [arm.name for arm in found if not arm.pairs]:
        yield f"No seed is finished yet of {', '.join(missing)}."
    yield from (f"Made by `{command}`." for command in made_by[-1:])


def _markdown(tables: Sequence[Table], made_by: Sequence[str]) -> str:
    by = "".join(f"\nMade by `{command}`.\n" for command in made_by[-1:])
    return "\n".join(f"{table.markdown()}{by}" for table in tables)
