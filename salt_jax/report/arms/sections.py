"""The tables of a laboratory's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import REGIMES, ArmResult, Pair, Result
from salt_jax.report.arms.tables import Table, number, passing, percent, students

_UNITS = {"steps": "steps", "flops": "FLOPs", "seconds": "chip-seconds"}


def by_regime(found: Sequence[ArmResult]) -> Iterator[tuple[str, list[ArmResult]]]:
    """Yields each regime that occurs, as a key of REGIMES, and its arms."""
    for regime in REGIMES:
        arms = [arm for arm in found if arm.regime == regime]
        if arms:
            yield regime, arms


def main_tables(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[Table]:
    """Yields one table of what came out for each regime."""
    reference = lab.file.reference
    fresh = ["fresh seeds"] * any(arm.fresh is not None for arm in found)
    header = ["Arm", "Seeds", "Final loss", f"From {reference}", *fresh]
    header += ["Passes at: steps", *fresh, "FLOPs", "chip-seconds", "Pays from"]
    for regime, arms in by_regime(found):
        yield Table(
            title=REGIMES[regime],
            note=_teachers(reference, arms),
            header=header,
            rows=[_main_row(lab, arm, bool(fresh)) for arm in arms],
        )


def brief_table(lab: Laboratory, found: Sequence[ArmResult]) -> Table:
    """Returns what came out in one table, a row for each arm that has a result."""
    header = ["Arm", "Its teacher ends", "Seeds", "Final loss"]
    header += [f"From {lab.file.reference}", "Passes at: steps", "FLOPs", "Pays from"]
    rows = []
    for arm in found:
        if (result := arm.all_seeds) is None:
            continue
        gap = "" if arm.teacher_gap is None else f", {arm.teacher_gap.mean:+.3f}"
        cells = [arm.name, f"{_ENDS[arm.regime]}{gap}"]
        cells += [f"{len(arm.pairs)} of {len(lab.file.seeds)}"]
        cells += [f"{result.final.mean:.3f}", number(result.difference, "+.3f")]
        cells += [passing(result, "steps"), passing(result, "flops")]
        rows.append([*cells, students(result.pays_from["flops"])])
    return Table(title="Arms", header=header, rows=rows)


_ENDS = {
    "worse": "worse",
    "equal": "about equal",
    "better": "better",
    "unknown": "not known yet",
    "none": "no teacher",
}


def _teachers(reference: str, arms: Sequence[ArmResult]) -> str:
    """Returns how far the teachers of a regime are from the reference."""
    gaps = {f"{arm.teacher_gap.mean:+.3f}" for arm in arms if arm.teacher_gap}
    if not gaps:
        return ""
    ordered = sorted(gaps, key=float)
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return (
        f"The teacher's held-out loss minus {reference}'s final one, on the same rows: "
        f"{' to '.join(ends)} nats per token."
    )


def _main_row(lab: Laboratory, arm: ArmResult, with_fresh: bool) -> list[str]:
    every, fresh = arm.all_seeds, arm.fresh
    cells = [arm.name, f"{len(arm.pairs)} of {len(lab.file.seeds)}"]
    cells.append("-" if every is None else f"{every.final.mean:.3f}")
    cells.append(_of(every, "difference", "+.3f"))
    cells += [_of(fresh, "difference", "+.3f")] * with_fresh
    cells.append(passing(every, "steps"))
    cells += [passing(fresh, "steps")] * with_fresh
    cells += [passing(every, "flops"), _seconds(lab, every)]
    if every is None:
        return [*cells, "-"]
    return [*cells, students(every.pays_from["flops"])]


def _bill(result: Result, what: str) -> str:
    found = result.bills[what]
    return "none" if found is not None and not found.mean else percent(found)


def cost_table(lab: Laboratory, found: Sequence[ArmResult]) -> Table:
    """Returns what each arm costs, by FLOPs and by chip-seconds."""
    rows = []
    for arm in found:
        result = arm.all_seeds
        if result is None:
            continue
        cells = [arm.name, arm.regime, number(result.at_equal_flops, "+.3f")]
        for what in ("flops", "seconds"):
            cells += [passing(result, what), _bill(result, what)]
            cells.append(students(result.pays_from[what]))
        rows.append(cells)
    header = ["Arm", "Teacher is", "Difference at equal FLOPs", "Passes at, of FLOPs"]
    header += ["Bill", "Pays from", "Passes at, of chip-seconds", "Bill", "Pays from"]
    return Table(
        title="Costs",
        note=f"Shares are of what {lab.file.reference} spends in all. Chip-seconds are "
        "steps times step times that were measured side by side; a dash: not measured.",
        header=header,
        rows=rows,
    )


def _of(result: Result | None, field: str, form: str) -> str:
    return "-" if result is None else number(getattr(result, field), form)


def _seconds(lab: Laboratory, result: Result | None) -> str:
    return "not measured" if lab.clock is None else passing(result, "seconds")


def interval_table(found: Sequence[ArmResult]) -> Table:
    """Returns both kinds of interval of each arm, and its loss at equal FLOPs."""
    rows = []
    for arm in found:
        for seeds, result in (
            ("all", arm.all_seeds),
            ("chosen on", arm.chosen),
            ("fresh", arm.fresh),
        ):
            if result is None:
                continue
            share = result.shares["steps"]
            rows.append(
                [
                    f"{arm.name}, {seeds} {len(result.seeds)}",
                    arm.regime,
                    f"{result.difference.mean:+.4f}",
                    _ends(result.difference.t, "+.4f"),
                    _ends(result.difference.bootstrap, "+.4f"),
                    number(arm.teacher_gap, "+.4f"),
                    "-" if share is None else _ends(share.t, ".1%"),
                    "-" if share is None else _ends(share.bootstrap, ".1%"),
                ]
            )
    header = [
        "Arm, seeds",
        "Teacher is",
        "Difference",
        "t interval",
        "bootstrap",
        "Teacher",
    ]
    header += ["Passes at, t", "bootstrap"]
    return Table(
        title="Intervals of 95 %",
        note="Student's t over seeds, n - 1 degrees of freedom, and a percentile "
        "bootstrap over seeds, which is too narrow for few. In nats per token, and "
        "as a share of the reference's steps. Teacher: its held-out loss minus the "
        "reference's final one.",
        header=header,
        rows=rows,
    )


def _ends(interval: Sequence[float] | None, form: str) -> str:
    return (
        "one seed" if interval is None else " to ".join(f"{x:{form}}" for x in interval)
    )


def seeds_table(lab: Laboratory, found: Sequence[ArmResult]) -> Table:
    """Returns the numbers of each pair of runs."""
    rows = [
        [
            f"{arm.name}, seed {pair.seed}",
            arm.regime,
            *[_role(lab, pair.seed)] * bool(lab.file.chosen_on),
            f"{pair.final:.4f}",
            f"{pair.difference:+.4f}",
            *(_share(pair, what) for what in _UNITS),
            "-" if pair.teacher_gap is None else f"{pair.teacher_gap:+.4f}",
        ]
        for arm in found
        for pair in arm.pairs
    ]
    header = ["Arm", "Teacher is", *["Seed is"] * bool(lab.file.chosen_on)]
    header += ["Final loss", "Difference"]
    header += [f"passes at, {unit}" for unit in _UNITS.values()]
    return Table(
        title="Seed by seed", header=[*header, "Teacher - reference"], rows=rows
    )


def _role(lab: Laboratory, seed: int) -> str:
    return "chosen on" if seed in lab.file.chosen_on else "fresh"


def _share(pair: Pair, what: str) -> str:
    share = pair.shares[what]
    if not pair.passes:
        return "never"
    return "-" if share is None else f"{share:.1%}"


def status_table(lab: Laboratory) -> Table:
    """Returns how far each run of the arms and the small models has come."""
    seeds = lab.file.seeds
    rows = [
        [made.name, *(lab.runs[made.name, seed].status for seed in seeds)]
        for made in (*lab.file.arms, *lab.file.small_models)
    ]
    return Table(
        title="How far the runs have come",
        header=["Run", *(f"seed {seed}" for seed in seeds)],
        rows=rows,
    )
