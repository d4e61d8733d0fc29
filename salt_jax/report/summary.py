"""What a report says first. No sentence takes SALT to be the better one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt_jax.report import page
from salt_jax.report.comparison import Comparison
from salt_jax.report.curves import loss_at

MEASURES = {"steps": "steps", "flops": "FLOPs", "seconds": "step time"}
NOT_MEASURED = (
    "Time is not compared: step times were not measured side by side, and the seconds "
    "of two runs also count what else the machine did. Run the command time_steps on "
    "the experiments, and give its file to report as --step_times."
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
    """Returns what the two runs are."""
    transition = comparison.transition
    until = "" if transition is None else f" until step {transition:,}"
    roles = "it is the teacher"
    if comparison.scoring is not None:
        roles += ", and its scores select the text"
    return (
        f"BASELINE trains a student alone for {comparison.baseline.steps:,} steps. "
        f"SALT trains the same student for {comparison.salt.steps:,} steps, and a "
        f"small language model (SLM) helps it{until}: {roles}. One run of each: "
        "another seed may differ."
    )


def findings(comparison: Comparison) -> Iterator[str]:
    """Yields the result in sentences."""
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
        "BASELINE's FLOPs: the bill below."
    )


def equal_table(comparison: Comparison) -> str:
    """Returns both losses at equal steps, FLOPs and step time, with the SLM's bill."""
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
    "SALT has BASELINE's loss at",
    "the same, bill included",
)


def _equal(comparison: Comparison, what: str) -> list[str]:
    """Returns the cells of `_EQUAL` for equal steps, FLOPs or seconds."""
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
    """Returns how steady step times were, and what the runs' own clocks said."""
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
        f"Step time is measured side by side: {plain['blocks']} blocks of "
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
    """Returns the seconds that each run counted, beside its steps times step time."""
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
        f"By their own clocks, the steps of the runs took: {'; '.join(said)}. What "
        "differs from 1 is what else the machine did, then or while measuring."
    )


def _amount(what: str, amount: float) -> str:
    if what == "steps":
        return f"{amount:,.0f}"
    return f"{amount:.2e}" if what == "flops" else f"{amount:,.0f} s"


def _loss(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4f}"
