"""The tables of a laboratory's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import REGIMES, ArmResult, Pair, Result
from salt_jax.report.arms.tables import Table, number, passing, percent, students
from salt_jax.report.intervals import Estimate

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
    with_fresh = bool(lab.file.chosen_on)
    header = ["Arm", "Seeds", "Final loss", f"From {reference}"]
    header += ["the same, fresh seeds"] * with_fresh
    header += ["Teacher from the same", f"Passes {reference} at, of its steps"]
    header += ["fresh seeds"] * with_fresh
    header += ["of its FLOPs", "of its chip-seconds", "Bill, of its FLOPs"]
    header += ["Pays from, by FLOPs", "by chip-seconds"]
    for regime, arms in by_regime(found):
        yield Table(
            title=REGIMES[regime],
            header=header,
            rows=[_main_row(lab, arm, with_fresh) for arm in arms],
        )


def _main_row(lab: Laboratory, arm: ArmResult, with_fresh: bool) -> list[str]:
    every, fresh = arm.all_seeds, arm.fresh
    asked = len(lab.file.seeds)
    cells = [arm.name, f"{len(arm.pairs)} of {asked}"]
    cells += [_of(every, "final", ".3f"), _of(every, "difference", "+.3f")]
    cells += [_of(fresh, "difference", "+.3f")] * with_fresh
    cells += [number(arm.teacher_gap, "+.3f"), passing(every, "steps")]
    cells += [passing(fresh, "steps")] * with_fresh
    cells += [passing(every, "flops"), _seconds(lab, every)]
    if every is None:
        return [*cells, "-", "-", "-"]
    cells.append(
        "none" if _is_zero(every.bills["flops"]) else percent(every.bills["flops"])
    )
    return [*cells, *(students(every.pays_from[what]) for what in ("flops", "seconds"))]


def _of(result: Result | None, field: str, form: str) -> str:
    return "-" if result is None else number(getattr(result, field), form)


def _is_zero(found: Estimate | None) -> bool:
    return found is not None and found.mean == 0


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
                    number(result.at_equal_flops, "+.4f"),
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
        "at equal FLOPs",
    ]
    header += ["Passes at, t", "bootstrap"]
    return Table(
        title="Intervals of 95 %",
        note="Student's t over seeds, n - 1 degrees of freedom, and a percentile "
        "bootstrap over seeds, which is too narrow for few. In nats per token, and "
        "as a share of the reference's steps.",
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


def split_tables(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[Table]:
    """Yields, for each evaluated split, the loss by domain minus the reference's."""
    seeds = lab.file.seeds
    evaluations = {key: run.evaluation for key, run in lab.runs.items()}
    reference = lab.file.reference
    splits: dict[str, list[str]] = {}
    for seed in seeds:
        said = evaluations[reference, seed]
        for split, content in (said or {"splits": {}})["splits"].items():
            splits.setdefault(split, [*content.get("domains", {})])
    for split, domains in splits.items():
        rows = []
        for arm in found:
            both = [
                (evaluations[arm.name, seed], evaluations[reference, seed])
                for seed in lab.pairs(arm.name, seeds)
            ]
            losses = [
                (_losses(one, split), _losses(other, split))
                for one, other in both
                if one is not None and other is not None
            ]
            if losses:
                rows.append(
                    [
                        *(arm.name, arm.regime, f"{len(losses)}"),
                        *_differences(losses, domains),
                    ]
                )
        if rows:
            yield Table(
                title=f"Loss minus {reference}'s on whole split {split!r}, by domain",
                note="Nats per token, of runs that were evaluated; a negative number "
                "favors the arm.",
                header=["Arm", "Teacher is", "Seeds", "All", *domains],
                rows=rows,
            )


def _losses(evaluation: Mapping, split: str) -> dict[str, float]:
    said = evaluation["splits"].get(split, {"total": {}, "domains": {}})
    groups = {"": said["total"], **said.get("domains", {})}
    return {name: means["loss"] for name, means in groups.items() if "loss" in means}


def _differences(
    losses: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    domains: Sequence[str],
) -> Iterator[str]:
    for name in ("", *domains):
        known = [a[name] - b[name] for a, b in losses if name in a and name in b]
        yield number(Estimate.of(known) if known else None, "+.3f")
