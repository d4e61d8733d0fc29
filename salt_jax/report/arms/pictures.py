"""The pictures of a laboratory's page, in its order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from salt_jax.lab.lab_file import MadeEntry
from salt_jax.report.arms import bands, figures
from salt_jax.report.arms.bands import Band
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import REGIMES, ArmResult
from salt_jax.report.arms.tables import percent
from salt_jax.report.pictures import Picture

_BANDS = "Lines: means over seeds. Bands: 95 % intervals (t)."
_CROP = 0.15  # The first steps, whose large changes would hide the rest.


def overview(
    lab: Laboratory, found: Sequence[ArmResult]
) -> Iterator[tuple[str, Picture]]:
    """Yields where each arm passes the reference, and what it ends with."""
    marks, ends = _marks(found)
    reference = lab.file.reference
    lines = f"Dots: means over seeds. Lines: 95 % intervals (t). Dashed: {reference}."
    for name, chosen, title, at, caption in (
        (
            "passing",
            marks,
            f"share of {reference}'s steps",
            1.0,
            f"Where each arm reaches {reference}'s final held-out loss. Arms that do "
            "not in every seed are left out.",
        ),
        (
            "difference",
            ends,
            f"final held-out loss minus {reference}'s, nats per token",
            0.0,
            "Final held-out loss, seed by seed against the reference.",
        ),
    ):
        if chosen:
            yield (
                name,
                Picture(
                    figure=figures.intervals_figure(
                        chosen, title, at=at, percent=name == "passing"
                    ),
                    numbers={
                        mark.label: {"mean": mark.estimate.mean, "t": mark.estimate.t}
                        for mark in chosen
                    },
                    says=f"Dot chart: {title}, by arm.",
                    caption=f"{caption} {lines} Colors: kinds of teacher, as in the "
                    "tables.",
                ),
            )


def _marks(
    found: Sequence[ArmResult],
) -> tuple[list[figures.Mark], list[figures.Mark]]:
    """Returns where arms pass the reference, and by how much they end below it."""
    passing, ends = [], []
    for arm in found:
        if (result := arm.all_seeds) is None:
            continue
        mark = functools.partial(
            figures.Mark, label=arm.name, color=[*REGIMES].index(arm.regime)
        )
        difference, share = result.difference, result.shares["steps"]
        ends.append(mark(estimate=difference, text=f"{difference.mean:+.3f}"))
        if share is not None:
            passing.append(mark(estimate=share, text=percent(share)))
    return passing, ends


def differences(lab: Laboratory) -> Iterator[tuple[str, Picture]]:
    """Yields the held-out loss minus the reference's against steps, by group."""
    reference = lab.file.reference
    yield from _by_group(
        lab,
        "loss_difference",
        functools.partial(bands.loss_difference, lab),
        f"held-out loss minus {reference}'s, nats per token",
        zero_is=reference,
    )


def losses(lab: Laboratory) -> Iterator[tuple[str, Picture]]:
    """Yields the held-out losses themselves, against steps."""
    yield from _by_group(
        lab,
        "loss",
        functools.partial(bands.held_out_loss, lab),
        "held-out loss, nats per token",
        with_reference=True,
    )


def few_shot(lab: Laboratory) -> Iterator[tuple[str, Picture]]:
    """Yields the average over few-shot tasks against steps."""
    yield from _by_group(
        lab,
        "few_shot",
        functools.partial(bands.few_shot, lab),
        "few-shot average",
        with_reference=True,
    )


def metrics(lab: Laboratory) -> Iterator[tuple[str, Picture]]:
    """Yields what training measured against steps: distances, agreement, norms."""
    for key, title in bands.METRICS.items():
        yield from _by_group(
            lab,
            key,
            functools.partial(bands.metric, lab, key=key),
            title,
            with_reference=key == "grad_norm",
            arms=lab.file.arms,
        )


def _by_group(
    lab: Laboratory,
    kind: str,
    band_of: Callable[[str], Band | None],
    title: str,
    *,
    with_reference: bool = False,
    zero_is: str = "",
    arms: Sequence[MadeEntry] | None = None,
) -> Iterator[tuple[str, Picture]]:
    """Yields one picture for each group of `arms`, or several of a large one."""
    reference = lab.file.reference
    others = [arm for arm in arms or lab.arms if arm.name != reference]
    for group in dict.fromkeys(arm.group for arm in others):
        names = [arm.name for arm in others if arm.group == group]
        drawn = {name: each for name in names if (each := band_of(name)) is not None}
        own = band_of(reference) if with_reference and drawn else None
        for begin in range(0, len(drawn), figures.MOST_LINES):
            part = dict([*drawn.items()][begin : begin + figures.MOST_LINES])
            shown = part if own is None else {reference: own, **part}
            number = f"-{begin // figures.MOST_LINES + 1}" if begin else ""
            of = f" of {group!r}" if group else ""
            yield (
                f"{kind}{f'-{group}' if group else ''}{number}".replace(" ", "_"),
                Picture(
                    figure=figures.curves_figure(
                        shown, title, reference=reference, crop=_CROP, zero_is=zero_is
                    ),
                    numbers={name: each.describe() for name, each in shown.items()},
                    says=f"Line chart: {title}, against steps, of {', '.join(shown)}.",
                    caption=f"{title[0].upper()}{title[1:]}: arms{of}. {_BANDS}",
                ),
            )
