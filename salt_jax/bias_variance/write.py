"""The page of bias and variance: one HTML file that opens offline, with its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from salt_jax.bias_variance import figures, tables
from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.report import page
from salt_jax.report.svg import svg

PAGE, NUMBERS = "bias_variance.html", "bias_variance.json"


def write_page(
    output: epath.PathLike, found: Mapping[str, Any], command: str
) -> epath.Path:
    """Writes the page and its numbers; returns the path of the page.

    Args:
      output: The directory, created if missing.
      found: "known_truth", what `run_study` returned, or "labels", what
        `measure_labels` returned.
      command: The command line that made them.

    Raises:
      OSError: a file cannot be written.
    """
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    write_record(output / NUMBERS, {**found, "command": command})
    parts = (
        _known_truth(found["known_truth"])
        if "known_truth" in found
        else _labels(found["labels"])
    )
    html = page.document(
        "Bias and variance of soft labels",
        *parts,
        page.section("Command", page.copyable(command)),
    )
    write_file(output / PAGE, html)
    return output / PAGE


def _known_truth(study: Mapping[str, Any]) -> Iterator[str]:
    seeds = len(study["seeds"])
    yield page.paragraph(
        "Students of a language whose next-token distributions are known, so that the "
        "excess risk is exact: the student's expected cross-entropy minus the entropy "
        f"of the language, {study['entropy']:.3f} nats. Each student is distilled to "
        "its last step, or never."
    )
    yield from (page.paragraph(text) for text in findings(study))
    yield page.picture(
        svg(figures.risk_figure(study)),
        says="Line chart: excess risk against training tokens, by labels.",
        caption=f"Means over {seeds} seed(s), which are the thin lines. Gray: the "
        "teachers themselves, in the dashes of their students.",
        numbers=NUMBERS,
    )
    yield tables.risks(study)
    yield page.note("* the lowest excess risk at so many tokens.")
    yield page.section(
        "Teachers, and where their labels stop to pay",
        tables.teachers(study),
        page.note(
            "The crossing is interpolated between numbers of tokens, on logarithmic "
            "axes. A student reaches its teacher where their held-out losses are the "
            "same, in the longest run that is distilled to its end; one number a seed."
        ),
        page.heading("The rule that leaves the teacher"),
        tables.leaving(study),
        page.note(
            "It is asked at each validation of another run of the greatest length, "
            "which goes on with one-hot labels. Excess risks: at the end, means."
        ),
    )
    for name, teacher in study["teachers"].items():
        heading = f"Gradient by the labels of {name!r}"
        yield page.folded_section(heading, *_gradients(teacher["gradients"]))


def findings(study: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for each teacher: where its labels win and lose."""
    tokens = study["tokens"]
    for name, teacher in study["teachers"].items():
        at, risk = teacher["crossing_tokens"], teacher["excess_risk"]
        about = f"Labels of {name!r}, {risk:.4f} nats from the truth, "
        if at == 0.0:
            yield f"{about}lose at every number of tokens from {tokens[0]:,} on."
        elif math.isinf(at):
            yield f"{about}win up to {tokens[-1]:,} tokens, the most that were tried."
        else:
            yield f"{about}win up to about {at:,.0f} tokens, and lose beyond."


def _labels(found: Mapping[str, Any]) -> Iterator[str]:
    yield page.paragraph(
        f"Labels of the teacher {found['teacher']}, at "
        f"{len(found['gradients'])} students. The gradient is that of the training "
        f"loss over {found['gradients'][0]['tokens_per_batch']:,} tokens, resampled "
        f"{found['gradients'][0]['batches']:,} times with the student held fixed."
    )
    if found["distance_from_truth"] is not None:
        distance = found["distance_from_truth"]
        yield page.paragraph(
            f"Bias of the labels: KL(truth, teacher) {distance['kl']:.4f} nats, and a "
            f"squared distance of {distance['squared_distance']:.5f}, means over "
            "contexts."
        )
    yield from _gradients(found["gradients"])
    if found["difficulty"] is not None:
        below = found["difficulty"]["confident_below"]
        yield page.section(
            "Where the teacher is wrong and confident",
            tables.difficulty(found["difficulty"]),
            page.note(
                "Held-out rows in thirds by the teacher's mean loss. Wrong: the target "
                "is not the teacher's likeliest token. Confident: the entropy of the "
                f"teacher is below {below:g} nats. Losses in nats per target."
            ),
        )


def _gradients(measured: Any) -> Iterator[str]:
    yield page.picture(
        svg(figures.gradient_figure(measured)),
        says="Line chart: variance and squared bias of the gradient, by student.",
        caption="One-hot labels have no bias. Averaged over n batches, a variance is "
        "divided by n, and the bias stays.",
        numbers=NUMBERS,
    )
    yield tables.gradients(measured)
    yield page.note(
        "Squared norms, summed over parameters, of a batch's gradient. Bias: against "
        "the expected gradient of one-hot labels; its noise, which chance adds to the "
        "square of a mean, is subtracted. Same error: below so many tokens, a gradient "
        "by soft labels is nearer to the expected one than one by one-hot labels."
    )
