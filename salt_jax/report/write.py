"""The report: one HTML page that opens offline, with figures and numbers beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.report import after_training, costs, figures, page, sections, summary
from salt_jax.report.comparison import Comparison
from salt_jax.report.pictures import Picture
from salt_jax.telemetry.recorded_commands import read_commands, with_commands


def write_report(
    output: epath.PathLike,
    *,
    baseline: epath.PathLike,
    salt: epath.PathLike,
    slm: epath.PathLike,
    scores: epath.PathLike | None = None,
    step_times: epath.PathLike | None = None,
    few_shot: epath.PathLike | None = None,
    fine_tuned: Sequence[epath.PathLike] = (),
    exports: Sequence[epath.PathLike] = (),
    command: str = "",
) -> epath.Path:
    """Writes `report.html` and the files it links to; returns the path of the page.

    Args:
      output: The output directory, created if missing.
      baseline: The run directory of BASELINE.
      salt: The run directory of SALT.
      slm: The run directory of the teacher.
      scores: The directory of the scores that SALT selects by, with their bill; None:
        no selection.
      step_times: The file that `time_steps` wrote; None: time is not compared.
      few_shot: The directory that `evaluate --tasks` wrote; None: no section.
      fine_tuned: Run directories of fine-tuned and evaluated students.
      exports: Directories of exports to list.
      command: The command line that writes this page.

    Raises:
      FileNotFoundError: a run was not trained or not evaluated, or another file is
        missing.
      ValueError: a run has no validation, a stage has no measured step time, or the
        runs were evaluated on different text.
    """
    comparison = Comparison.read(
        baseline=baseline, salt=salt, slm=slm, scores=scores, step_times=step_times
    )
    output = epath.Path(output)
    shown = {name: x.write(output, name) for name, x in _pictures(comparison)}
    if comparison.clock is not None:
        write_record(output / "step_times.json", dict(comparison.clock.described))
    after = []
    if few_shot is not None:
        after.append(after_training.few_shot(few_shot))
    if fine_tuned:
        after.append(after_training.fine_tuned(fine_tuned))
    html = page.document(
        summary.title(comparison),
        page.paragraph(summary.compared(comparison)),
        shown.pop("loss_steps"),
        *map(page.paragraph, summary.findings(comparison)),
        summary.equal_table(comparison),
        page.note(summary.noise(comparison)),
        *_figure_sections(shown),
        *_details(comparison),
        *after,
        *_end(exports),
        _commands(
            comparison,
            [*([few_shot] if few_shot else []), *fine_tuned, *with_commands(exports)],
            command,
        ),
    )
    write_file(output / "report.html", html)
    return output / "report.html"


def _pictures(comparison: Comparison) -> Iterator[tuple[str, Picture]]:
    runs = figures.Runs(
        curves=comparison.curves,
        training=comparison.training_curves,
        passing=comparison.passing,
        transition=comparison.transition,
    )
    result = summary.title(comparison)
    for what in comparison.measures:
        spent, bill = figures.SPENT[what], comparison.bill(what)
        picture = Picture(
            figure=figures.loss_figure(runs, spent, bill=bill or 0.0),
            numbers=runs.describe() | {"bill": bill},
            says=f"Line chart: held-out loss against {spent.noun}. {result}.",
            caption=f"Loss against {spent.noun}. Dots: held-out text. Faint lines: "
            "training text (cross-entropy, moving mean).",
        )
        yield f"loss_{spent.noun.replace(' ', '_').lower()}", picture
    if any("kl" in record for record in comparison.salt.records):
        yield "kl", _kl(comparison)
    yield "domains", _domains(comparison)


def _kl(comparison: Comparison) -> Picture:
    taught = [record for record in comparison.salt.records if "kl" in record]
    return Picture(
        figure=figures.kl_figure(taught),
        numbers={name: [record[name] for record in taught] for name in ("step", "kl")},
        says="Line chart: KL from the teacher to the student during distillation.",
        caption="KL(teacher || student) at temperature 1 on training text, in nats per "
        "token.",
    )


def _domains(comparison: Comparison) -> Picture:
    bits = {
        name: {domain: x["bits_per_byte"] for domain, x in run.domains("val").items()}
        for name, run in comparison.models.items()
    }
    return Picture(
        figure=figures.domains_figure(bits),
        numbers={"bits_per_byte": bits},
        says="Bar chart: bits per byte by model and domain on validation text. The "
        "tables of held-out loss have the loss of each domain.",
        caption="Bits per byte of validation text by domain.",
    )


def _figure_sections(shown: Mapping[str, str]) -> Iterator[str]:
    spent = [html for name, html in shown.items() if name.startswith("loss_")]
    yield page.folded_section("Loss against FLOPs and step time", *spent)
    if "kl" in shown:
        yield page.folded_section("Distance from the teacher", shown["kl"])
    yield page.folded_section("Loss by domain", shown["domains"])


def _details(comparison: Comparison) -> Iterator[str]:
    yield page.folded_section(
        "Held-out loss",
        page.note("Nats per token. A negative difference favors SALT."),
        *(
            f"{page.heading(split)}{sections.held_out_table(comparison, split)}"
            for split in comparison.salt.evaluation["splits"]
        ),
        page.heading("Other measures"),
        sections.measures_table(comparison),
    )
    yield page.folded_section(
        "Cost",
        page.note(
            "FLOPs are computed by formula. Step time is the number of steps of each "
            "stage times its measured step time; scoring is billed at the FLOP rate of "
            "the SLM's step. A run's own clock includes other load on the machine: do "
            "not compare runs by it."
        ),
        sections.bill_table(comparison),
        page.heading("What each run has cost"),
        costs.bills_table({k: x.workdir for k, x in comparison.models.items()}),
    )
    yield page.folded_section(
        "Warnings",
        page.note("What each run was warned of while it trained: docs/warnings.md."),
        *costs.warnings({k: x.records for k, x in comparison.models.items()}),
    )
    yield page.folded_section("Step time and its noise", *_step_times(comparison))
    yield page.folded_section(
        "Settings",
        page.note(
            "Distillation ends at the end_step of SALT's first stage, or before it by "
            "its leave rule."
        ),
        sections.settings_tables(comparison),
    )
    yield page.folded_section(
        "Continuations of held-out text", sections.samples(comparison)
    )


def _step_times(comparison: Comparison) -> Iterator[str]:
    yield sections.step_times_table(comparison)
    if comparison.clock is not None:
        yield page.note(
            "Quartiles are over blocks; ratios are within a round. Variation is the "
            "coefficient of variation. Runs are compared by the plain step time times "
            "the ratio, which depends least on other load."
        )
        yield page.link("step_times.json", "Numbers (JSON)")
    yield page.heading("Each run by its own clock")
    yield sections.own_clocks_table(comparison)
    yield page.note(
        "A ratio above 1 means more load on the machine during the run than during the "
        "measurement. Wall-clock time includes compilation, validation and checkpoints."
    )


def _end(exports: Sequence[epath.PathLike]) -> Iterator[str]:
    if exports:
        yield after_training.exports(exports)
    yield page.folded_section(
        "Environment",
        page.note("The process that wrote this page."),
        sections.environment_table(),
    )


def _commands(
    comparison: Comparison, others: Sequence[epath.PathLike], command: str
) -> str:
    """Returns the commands that made the directories, the step times and this page."""
    directories = [*comparison.directories, *others]
    lines = read_commands(dict.fromkeys(map(str, directories)))
    if comparison.clock is not None:
        lines.append(comparison.clock.described.get("command", ""))
    return page.section(
        "Commands that made this run",
        page.note("As recorded in each directory. One click selects all."),
        page.copyable("\n".join(line for line in (*lines, command) if line)),
    )
