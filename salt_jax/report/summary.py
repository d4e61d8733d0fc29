"""The summary of a report, worded for either outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt_jax.report import page
from salt_jax.report.comparison import Comparison
from salt_jax.report.curves import loss_at

MEASURES = {"steps": "steps", "flops": "FLOPs", "seconds": "step time"}
NOT_MEASURED = (
    "Time is not compared: step times were not measured, and a run's own clock "
    "includes other load on the machine. Run the command time_steps on the "
    "experiments, and pass its file to report as --step_times."
)


def title(comparison: Comparison) -> str:
    """Returns the result in one line."""
    passing = comparison.passing
    if passing is None:
        return "SALT does not reach BASELINE's final loss"
    return (
        f"SALT reaches BASELINE's final loss at {passing.share_of_steps:.0%} of its "
        f"steps and {passing.share_of_flops:.0%} of its FLOPs"
    )


def compared(comparison: Comparison) -> str:
    """Returns a description of the two runs."""
    transition = comparison.transition
    until = "" if transition is None else f" until step {transition:,}"
    roles = "it is the teacher"
    if comparison.scoring is not None:
        roles += ", and its scores select the text"
    return (
        f"BASELINE trains a student alone for {comparison.baseline.steps:,} steps. "
        f"SALT trains the same student for {comparison.salt.steps:,} steps, and a "
        f"small language model (SLM) helps it{until}: {roles}. One run of each: "
        "other seeds may differ."
    )


def findings(comparison: Comparison) -> Iterator[str]:
    """Yields the results as sentences."""
    salt, baseline = comparison.curves["SALT"], comparison.curves["BASELINE"]
    gap = salt.losses[-1] - baseline.losses[-1]
    side = "lower" if gap < 0 else "higher"
    yield (
        f"Final held-out loss: SALT {salt.losses[-1]:.4f}, BASELINE "
        f"{baseline.losses[-1]:.4f}. SALT's is {abs(gap):.4f} nats per token {side}."
    )
    bill = comparison.bill("flops")
    assert bill is not None
    parts = "Training the SLM"
    if comparison.scoring is not None:
        parts += " and scoring"
    yield (
        f"{parts} cost another {bill / comparison.baseline.spent('flops'):.1%} of "
        "BASELINE's FLOPs, the bill in the table."
    )


def equal_table(comparison: Comparison) -> str:
    """Returns a table of both losses at equal steps, FLOPs and step time."""
    columns = [_equal(comparison, what) for what in comparison.measures]
    if comparison.clock is None:
        columns.append(["not measured"] + ["-"] * (len(_EQUAL) - 1))
    rows = [[name, *cells] for name, *cells in zip(_EQUAL, *columns, strict=True)]
    return page.table(["At equal", *MEASURES.values()], rows, totals=0)


_EQUAL = (
    "BASELINE spends",
    "BASELINE's loss",
    "SALT's loss",
    "SALT - BASELINE",
    "SALT's loss, bill included",
    "SALT reaches BASELINE's loss at",
    "the same, bill included",
)


def _equal(comparison: Comparison, what: str) -> list[str]:
    """Returns the column of the rows `_EQUAL` for steps, FLOPs or seconds."""
    salt, baseline = comparison.curves["SALT"], comparison.curves["BASELINE"]
    passing, bill = comparison.passing, comparison.bill(what)
    budget, target = float(baseline.spent(what)[-1]), baseline.losses[-1]
    loss = loss_at(salt, what, budget)
    at = None if passing is None else getattr(passing, what) / budget
    if what == "steps":
        billed, billed_at = "-", "-"
    elif bill is None:
        billed, billed_at = "unknown", "unknown"
    else:
        billed = _loss(loss_at(salt, what, budget - bill))
        billed_at = _share(None if at is None else at + bill / budget)
    return [
        _amount(what, budget),
        f"{target:.4f}",
        _loss(loss),
        "unknown" if loss is None else f"{loss - target:+.4f}",
        *(billed, _share(at), billed_at),
    ]


def _share(share: float | None) -> str:
    return "never" if share is None else f"{share:.1%}"


def noise(comparison: Comparison) -> str:
    """Returns the noise of step times, and the runs' times by their own clocks."""
    clock = comparison.clock
    if clock is None:
        return NOT_MEASURED
    pieces = []
    for update in clock.updates:
        ratio = update["ratio_to_plain"]
        low, high = ratio["quartiles"]
        if update is not clock.updates[0]:
            pieces.append(
                f"{update['name']} takes {ratio['median']:.2f} times as long "
                f"(quartiles {low:.2f} to {high:.2f})"
            )
    plain = clock.updates[0]
    return (
        f"Step times are from {plain['blocks']} blocks of "
        f"{clock.described['steps_per_block']} steps of each update, in random order. "
        f"A plain step takes {plain['median']:.3g} s; {'; '.join(pieces)}. "
        f"Noise: a coefficient of variation of {_variations(clock.updates)} over "
        f"blocks. {_own_clocks(comparison)}"
    )


def _variations(updates: Sequence[Mapping[str, Any]]) -> str:
    values = [update["coefficient_of_variation"] for update in updates]
    low, high = f"{min(values):.0%}", f"{max(values):.0%}"
    return low if low == high else f"{low} to {high}"


def _own_clocks(comparison: Comparison) -> str:
    """Returns each run's time by its own clock, and by measured step times."""
    said = []
    for name in ("BASELINE", "SALT"):
        run = comparison.models[name]
        expected = comparison.seconds_of(run)
        assert expected is not None
        own = run.spent("seconds")
        said.append(
            f"{name} {own:,.0f} s, {own / expected:.2f} times the {expected:,.0f} s of "
            "its measured step times"
        )
    return (
        f"By the runs' own clocks, their steps took: {'; '.join(said)}. A ratio other "
        "than 1 shows other load on the machine, during the run or the measurement."
    )


def _amount(what: str, amount: float) -> str:
    if what == "steps":
        return f"{amount:,.0f}"
    return f"{amount:.2e}" if what == "flops" else f"{amount:,.0f} s"


def _loss(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4f}"
