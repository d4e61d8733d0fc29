"""What came out of an arm: losses, passing and cost, paired by seed with the reference.

A pair is a seed of which both runs are finished. Shares are of the reference's total.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.report.arms.laboratory import WHATS, Laboratory
from salt_jax.report.arms.seed_run import SeedRun
from salt_jax.report.curves import LossCurve, PassingPoint, loss_at, passing_point
from salt_jax.report.intervals import Estimate, Interval

_BILLED = ("flops", "seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One seed of an arm and of the reference."""

    seed: int
    final: float  # Loss of the last validation.
    difference: float  # From the reference's; negative favors the arm.
    at_equal_flops: float | None  # Difference once as many FLOPs are spent.
    shares: Mapping[str, float | None]  # At which it passes; None: never, or unknown.
    bills: Mapping[str, float | None]  # What it needs before it starts.
    teacher_gap: float | None  # The teacher's loss minus the reference's final one.
    passes: bool

    @classmethod
    def of(cls, lab: Laboratory, name: str, seed: int) -> Pair:
        """Compares two finished runs."""
        run, reference = lab.runs[name, seed], lab.runs[lab.file.reference, seed]
        curve, other = curve_of(lab, run), curve_of(lab, reference)
        point = passing_point(curve, other)
        totals = {what: lab.spent(reference, what) for what in _BILLED}
        bills = {what: lab.bill(name, seed, what) for what in totals}
        at_equal = loss_at(curve, "flops", float(other.flops[-1]))
        return cls(
            seed=seed,
            final=run.final_loss,
            difference=run.final_loss - reference.final_loss,
            at_equal_flops=None if at_equal is None else at_equal - other.losses[-1],
            shares={what: _share(point, what) for what in WHATS},
            bills={what: _ratio(bills[what], totals[what]) for what in totals},
            teacher_gap=_gap(lab, name, seed),
            passes=point is not None,
        )


def curve_of(lab: Laboratory, run: SeedRun) -> LossCurve:
    """Returns the held-out losses of a run, with seconds if they were measured."""
    return dataclasses.replace(run.curve, seconds=lab.seconds(run, run.curve.steps))


def _share(point: PassingPoint | None, what: str) -> float | None:
    return None if point is None else getattr(point, f"share_of_{what}")


def _ratio(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else value / whole


def _gap(lab: Laboratory, name: str, seed: int) -> float | None:
    """Returns the teacher's held-out loss minus the reference's final one."""
    loss = lab.runs[name, seed].teacher_loss
    teacher = lab.teacher(name, seed)
    if loss is None and teacher is not None and teacher.is_finished:
        rows = lab.runs[name, seed].validation_rows
        loss = teacher.final_loss if teacher.validation_rows == rows else None
    reference = lab.runs[lab.file.reference, seed].final_loss
    return None if loss is None else loss - reference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Students:
    """The number of students from which an arm costs less than the reference."""

    count: int | None  # None: never, however many share the bill.
    fewest: int | None  # At the ends of the 95 % interval of what one student spends.
    most: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Means over the pairs of some seeds."""

    seeds: Sequence[int]
    final: Estimate
    difference: Estimate
    at_equal_flops: Estimate | None
    passed: int  # Seeds that reach the reference's final loss.
    shares: Mapping[str, Estimate | None]  # None: a seed never passes, or unknown.
    bills: Mapping[str, Estimate | None]
    pays_from: Mapping[str, Students | None]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Result | None:
        """Returns the means; None without pairs."""
        if not pairs:
            return None

        shares = {what: _mean([pair.shares[what] for pair in pairs]) for what in WHATS}
        bills = {what: _mean([pair.bills[what] for pair in pairs]) for what in _BILLED}
        return cls(
            seeds=[pair.seed for pair in pairs],
            final=Estimate.of([pair.final for pair in pairs]),
            difference=Estimate.of([pair.difference for pair in pairs]),
            at_equal_flops=_mean([pair.at_equal_flops for pair in pairs]),
            passed=sum(pair.passes for pair in pairs),
            shares=shares,
            bills=bills,
            pays_from={what: _students(shares[what], bills[what]) for what in bills},
        )


def _mean(values: Sequence[float | None]) -> Estimate | None:
    """Returns the mean; None if a value is not known."""
    known = [value for value in values if value is not None]
    return Estimate.of(known) if len(known) == len(values) else None


def pays_from(share: float, bill: float) -> int | None:
    """Returns the least n with share + bill / n < 1; None if there is none.

    Args:
      share: What one student spends until it reaches the reference's final loss, as a
        share of what the reference spends.
      bill: What all students together need before they start, as such a share.
    """
    if share >= 1:
        return None
    return max(1, math.floor(bill / (1 - share)) + 1)


def _students(share: Estimate | None, bill: Estimate | None) -> Students | None:
    if share is None or bill is None:
        return None
    low, high = share.t or (share.mean, share.mean)
    return Students(
        count=pays_from(share.mean, bill.mean),
        fewest=pays_from(max(low, 0.0), bill.mean),
        most=pays_from(high, bill.mean),
    )


REGIMES = {
    "worse": "A teacher that ends worse than the student (the paper's regime)",
    "equal": "A teacher that ends about as good as the student",
    "better": "A teacher that ends better than the student",
    "unknown": "A teacher whose held-out loss is not known yet",
    "none": "No teacher",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm, how far its runs have come, and what came out."""

    name: str
    group: str
    status: Mapping[str, str]  # By seed.
    regime: str  # A key of REGIMES.
    teacher_gap: Estimate | None  # The teacher's loss minus the reference's final one.
    pairs: Sequence[Pair]
    all_seeds: Result | None
    chosen: Result | None  # On the seeds that dials were chosen on.
    fresh: Result | None  # On the others; None too if no seed was chosen on.

    @classmethod
    def of(cls, lab: Laboratory, name: str, group: str) -> ArmResult:
        """Reads an arm that is not the reference."""
        file = lab.file
        pairs = [Pair.of(lab, name, seed) for seed in lab.pairs(name, file.seeds)]
        fresh = [p for p in pairs if p.seed in lab.fresh] if file.chosen_on else []
        gap = _mean_gap(lab, name, pairs)
        return cls(
            name=name,
            group=group,
            status={str(seed): lab.runs[name, seed].status for seed in file.seeds},
            regime=_regime(lab, name, gap),
            teacher_gap=gap,
            pairs=pairs,
            all_seeds=Result.of(pairs),
            chosen=Result.of([p for p in pairs if p.seed in file.chosen_on]),
            fresh=Result.of(fresh),
        )

    def describe(self) -> dict[str, Any]:
        """Returns the numbers as JSON types."""
        return dataclasses.asdict(self)


def _mean_gap(lab: Laboratory, name: str, pairs: Sequence[Pair]) -> Estimate | None:
    """Returns the teacher's mean gap; None if that of a pair is unknown.

    Seeds with which the arm is not finished, but its teacher and the reference are,
    count too: so arms of one teacher are of one regime.
    """
    gaps = {pair.seed: pair.teacher_gap for pair in pairs}
    if not gaps or None in gaps.values():
        return None
    for seed, run in lab.teachers(name).items():
        reference = lab.runs[lab.file.reference, seed]
        finished = run.is_finished and reference.is_finished
        same_rows = finished and run.validation_rows == reference.validation_rows
        if seed not in gaps and same_rows:
            gaps[seed] = run.final_loss - reference.final_loss
    return Estimate.of([gap for gap in gaps.values() if gap is not None])


def _regime(lab: Laboratory, name: str, gap: Estimate | None) -> str:
    runs = [lab.runs[name, seed] for seed in lab.file.seeds]
    begun = [run for run in runs if run.trained is not None]
    if not any(run.teacher_export for run in begun):
        return "none" if begun else "unknown"
    return "unknown" if gap is None else side(gap.mean, gap.t)


def side(mean: float, interval: Interval | None) -> str:
    """Returns whether a teacher is "worse", "better", or not told apart: "equal".

    Args:
      mean: Its loss minus the reference's final one.
      interval: The 95 % interval of that; None for one seed, which is believed.
    """
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return "equal"
    return "worse" if mean > 0 else "better"


def results(lab: Laboratory) -> list[ArmResult]:
    """Returns the results of all arms but the reference, by regime and group."""
    groups = list(dict.fromkeys(arm.group for arm in lab.others))
    found = [ArmResult.of(lab, arm.name, arm.group) for arm in lab.others]
    return sorted(
        found, key=lambda x: ([*REGIMES].index(x.regime), groups.index(x.group))
    )
