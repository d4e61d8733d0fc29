"""Few-shot averages of all arms, the reference too, by the steps they were asked at."""

from __future__ import annotations

from collections.abc import Mapping

from salt_jax.report.arms import bands
from salt_jax.report.arms.bands import Band
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.tables import Table


def averages(lab: Laboratory) -> dict[str, Band]:
    """Returns means over seeds by step, of the arms that were asked."""
    found = {arm.name: bands.few_shot(lab, arm.name) for arm in lab.arms}
    return {name: band for name, band in found.items() if band is not None}


def few_shot_table(found: Mapping[str, Band]) -> Table | None:
    """Returns the means of `averages` as a table; None without any."""
    if not found:
        return None
    steps = sorted({step for band in found.values() for step in band.steps})
    return Table(
        title="Few-shot average, by step",
        note="Means over the seeds whose exports were asked, and half of Student's "
        "95 % interval.",
        header=["Arm", "Seeds", *(f"step {step:,.0f}" for step in steps)],
        rows=[
            [name, f"{band.count}", *(_cell(band, step) for step in steps)]
            for name, band in found.items()
        ],
    )


def _cell(band: Band, step: float) -> str:
    if step not in band.steps:
        return "-"
    at = list(band.steps).index(step)
    mean = f"{band.mean[at]:.4f}"
    if band.low is None or band.high is None:
        return mean
    return f"{mean} \u00b1 {(band.high[at] - band.low[at]) / 2:.4f}"
