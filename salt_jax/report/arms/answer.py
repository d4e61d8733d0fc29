"""What a laboratory found, in sentences that are true of any outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import REGIMES, ArmResult, Result
from salt_jax.report.arms.sections import by_regime
from salt_jax.report.arms.tables import number, percent, students

# The share of the steps at which SALT passed BASELINE in the paper (arXiv 2410.18779).
PAPERS_SHARE = 0.7


_SHORT = {
    "worse": "a teacher that ends worse",
    "equal": "a teacher that ends about as good",
    "better": "a teacher that ends better",
    "unknown": "a teacher of unknown loss",
    "none": "no teacher",
}


def title(lab: Laboratory, found: Sequence[ArmResult]) -> str:
    """Returns the result in one line: that of the first regime in which arms pass."""
    name, reference = lab.file.name, lab.file.reference
    if not any(arm.all_seeds for arm in found):
        return f"{name}: nothing to compare with {reference} yet"
    for regime, arms in by_regime(found):
        passing = [arm for arm in arms if _share(arm) is not None]
        if passing:
            best = best_of(passing)
            result = _reported(best)
            assert result is not None
            return (
                f"{name}: with {_SHORT[regime]}, {best.name} reaches {reference}'s "
                f"final loss at {percent(result.shares['steps'])} of its steps"
            )
    return f"{name}: no arm reaches {reference}'s final loss in every seed"


def progress(lab: Laboratory) -> str:
    """Returns what was asked, and how much of it is there."""
    arms, seeds = [arm.name for arm in lab.file.arms], lab.file.seeds
    total = len(arms) * len(seeds)
    done = sum(len(lab.finished(name)) for name in arms)
    said = (
        f"{_count(len(lab.others), 'arm')} against {lab.file.reference}, each with "
        f"{_seeds(seeds)}: {done} of {total} runs are finished."
    )
    return said if done == total else f"{said} What follows is about those alone."


def findings(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[str]:
    """Yields a paragraph for each regime, then what all of it is worth."""
    for regime, arms in by_regime(found):
        judged = [arm for arm in arms if arm.all_seeds is not None]
        names = f"{REGIMES[regime]}: {_list([arm.name for arm in arms])}."
        if not judged:
            yield f"{names} No pair of runs is finished."
        else:
            yield f"{names} {' '.join(_about(lab, best_of(judged)))}"
    yield _under_the_papers(lab, found)
    yield _caution(lab, found)


def best_of(arms: Sequence[ArmResult]) -> ArmResult:
    """Returns the arm that passes first in every seed, else the one of least loss.

    It is chosen on the seeds that dials were chosen on, if some were.
    """

    def order(arm: ArmResult) -> tuple[float, float]:
        result = arm.chosen or arm.all_seeds
        assert result is not None
        share = result.shares["steps"]
        return (share.mean if share else float("inf"), result.difference.mean)

    return min(arms, key=order)


def _reported(arm: ArmResult) -> Result | None:
    """Returns the result that is told: on fresh seeds, if some seeds were chosen on."""
    return arm.fresh or arm.all_seeds


def _share(arm: ArmResult) -> float | None:
    result = _reported(arm)
    share = None if result is None else result.shares["steps"]
    return None if share is None else share.mean


def _about(lab: Laboratory, arm: ArmResult) -> Iterator[str]:
    """Yields sentences on the best arm of a regime."""
    result, reference = _reported(arm), lab.file.reference
    assert result is not None
    seeds = _count(len(result.seeds), "fresh seed" if arm.fresh else "seed")
    share = result.shares["steps"]
    loss = number(result.difference, "+.3f")
    if share is None:
        yield (
            f"Of these {arm.name} comes closest: its final loss is {loss} nats per "
            f"token from {reference}'s, and {result.passed} of {seeds} reach it."
        )
        return
    costs = [f"{percent(share)} of its steps"]
    costs.append(f"{percent(result.shares['flops'])} of its FLOPs")
    if result.shares["seconds"] is not None:
        costs.append(f"{percent(result.shares['seconds'])} of its chip-seconds")
    yield (
        f"First is {arm.name}: it reaches {reference}'s final loss at {_list(costs)} "
        f"({seeds}), and its own final loss is {loss} nats per token from it."
    )
    yield from _bill(result)


def _bill(result: Result) -> Iterator[str]:
    bill, pays = result.bills["flops"], result.pays_from["flops"]
    if bill is None or pays is None:
        yield "What it needs beforehand is not known."
    elif not bill.mean:
        yield "It needs nothing beforehand."
    else:
        yield (
            "What it needs beforehand, small models and scores, costs "
            f"{percent(bill)} of those FLOPs."
        )
        count = pays.count
        if count is None:
            yield "It never pays, however many students share them."
        else:
            by_time = result.pays_from["seconds"]
            and_time = f" ({students(by_time)} by chip-seconds)" if by_time else ""
            yield (
                f"It pays from {students(pays)} students on that share this{and_time}."
            )


def _under_the_papers(lab: Laboratory, found: Sequence[ArmResult]) -> str:
    """Returns which arms pass as early as the paper's did."""
    early = []
    for regime, arms in by_regime(found):
        shares = {arm.name: _share(arm) for arm in arms}
        names = [name for name, x in shares.items() if x and x <= PAPERS_SHARE]
        if names:
            early.append(f"{_list(names)} ({_SHORT[regime]})")
    limit = f"{100 * PAPERS_SHARE:.0f} % of its steps or fewer, as in the paper"
    if not early:
        return f"No arm reaches {lab.file.reference}'s final loss at {limit}."
    return (
        f"At {limit}, {lab.file.reference}'s final loss is reached by {_list(early)}."
    )


def _caution(lab: Laboratory, found: Sequence[ArmResult]) -> str:
    """Returns what limits the numbers."""
    most = max((len(arm.pairs) for arm in found), default=0)
    said = ["After \u00b1: 95 % intervals over seeds (Student's t)."]
    if most < 2:
        said = ["One seed: there is no interval, and other seeds may differ."]
    if lab.file.chosen_on:
        said.append(
            f"Dials were chosen on {_seeds(lab.file.chosen_on)}; what is told here "
            f"is of the fresh {_seeds(lab.fresh)}, where they are finished."
        )
    elif len(found) > 1:
        said.append(
            "The first of several arms is told on the seeds that it was found on, "
            "which flatters it."
        )
    if lab.clock is None:
        said.append("Chip-seconds are not compared: step times were not measured.")
    return " ".join(said)


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {_list(seeds)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _list(values: Sequence[object]) -> str:
    texts = [str(value) for value in values]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
