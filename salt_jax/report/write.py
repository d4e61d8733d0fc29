"""Writes the report: one page that opens offline, and its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from matplotlib.figure import Figure

from salt_jax.report import after_training, figures, page, sections
from salt_jax.report.runs import Comparison


def write_report(
    output: epath.PathLike,
    *,
    baseline: epath.PathLike,
    salt: epath.PathLike,
    slm: epath.PathLike,
    scores: epath.PathLike | None = None,
    few_shot: epath.PathLike | None = None,
    fine_tuned: Sequence[epath.PathLike] = (),
    exports: Sequence[epath.PathLike] = (),
    commands: Sequence[str] = (),
) -> epath.Path:
    """Writes `report.html` and its pictures into `output`; returns the page's path.

    Args:
      output: A folder, made where there is none.
      baseline: The workdir of the run without a teacher.
      salt: The workdir of the run with one.
      slm: The workdir of the teacher's own training.
      scores: The folder of the scores that SALT selected by, with the bill of making
        them; None without selection.
      few_shot: The folder that `evaluate --tasks` wrote; None without it.
      fine_tuned: The workdirs of students that were fine-tuned and then evaluated.
      exports: Folders of exports to point to.
      commands: What to type to make all of it again, for the page.

    Raises:
      FileNotFoundError: a run was not trained, or not evaluated; an export is missing.
      ValueError: a run has no validation, or the runs were evaluated on different
        text.
    """
    comparison = Comparison.read(baseline=baseline, salt=salt, slm=slm, scores=scores)
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    pngs = {name: figures.png(figure) for name, figure in _figures(comparison)}
    for name, png in pngs.items():
        (output / f"{name}.png").write_bytes(png)
    after = []
    if few_shot is not None:
        after.append(after_training.few_shot(few_shot))
    if fine_tuned:
        after.append(after_training.fine_tuned(fine_tuned))
    if exports:
        after.append(after_training.exports(exports))
    html = page.document(
        sections.title(comparison),
        *map(page.paragraph, sections.findings(comparison)),
        *_pictures(comparison, pngs),
        *after,
        *_tables(comparison, commands),
    )
    (output / "report.html").write_text(html)
    return output / "report.html"


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    runs = figures.Runs(
        curves=comparison.curves,
        records={
            "BASELINE": comparison.baseline.records,
            "SALT": comparison.salt.records,
        },
        passing=comparison.passing,
        transition=comparison.transition,
    )
    for spent in figures.SPENT:
        bill = comparison.bill("flops") if spent.name == "flops" else 0.0
        yield f"loss_{spent.name}", figures.loss_figure(runs, spent, bill=bill)
    if any("kl" in record for record in comparison.salt.records):
        yield "kl", figures.kl_figure(comparison.salt.records)
    bits = {
        name: {domain: x["bits_per_byte"] for domain, x in run.domains("val").items()}
        for name, run in comparison.models.items()
    }
    yield "domains", figures.domains_figure(bits)


def _pictures(comparison: Comparison, pngs: Mapping[str, bytes]) -> Iterator[str]:
    result = sections.title(comparison)
    losses = [
        page.picture(
            pngs[f"loss_{spent.name}"],
            says=f"Line chart: held-out loss against {spent.noun}. {result}.",
            caption=f"Loss against {spent.noun}. Dots are held-out text, the faint "
            "lines training text (cross-entropy, a moving mean).",
        )
        for spent in figures.SPENT
    ]
    yield page.section("Loss", *losses)
    if "kl" in pngs:
        yield page.section("Distance from the teacher", _kl_picture(pngs["kl"]))
    picture = page.picture(
        pngs["domains"],
        says="Bar chart: bits per byte of each model in each domain of the validation "
        "text. The table of held-out loss below has the same comparison in numbers.",
        caption="Bits per byte of validation text, by domain.",
    )
    yield page.section("By domain", picture)


def _kl_picture(png: bytes) -> str:
    return page.picture(
        png,
        says="Line chart: KL from the teacher to the student while there is a teacher.",
        caption="KL(teacher || student) at temperature 1 on training text: how far the "
        "student still is from its teacher.",
    )


def _tables(comparison: Comparison, commands: Sequence[str]) -> Iterator[str]:
    yield page.section(
        "Held-out loss",
        page.note("Nats per token. A negative difference is in favour of SALT."),
        *(
            f"{page.heading(split)}{sections.held_out_table(comparison, split)}"
            for split in comparison.salt.evaluation["splits"]
        ),
        page.heading("Other measures"),
        sections.measures_table(comparison),
    )
    yield page.section(
        "What it cost",
        page.note(
            "FLOPs are counted by formula. Seconds are those of training and of "
            "scoring, as each run recorded them."
        ),
        sections.bill_table(comparison),
    )
    yield page.section(
        "Settings",
        page.note("The end_step of SALT's first stage is where its teacher leaves."),
        sections.settings_tables(comparison),
    )
    yield page.section(
        "How the models go on with held-out text", sections.samples(comparison)
    )
    yield page.section(
        "Environment",
        page.note("Of the process that wrote this page."),
        sections.environment_table(),
    )
    if commands:
        again = page.preformatted("\n".join(commands))
        yield page.section("To make all of this again", again)
