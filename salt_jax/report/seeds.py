"""A Markdown table of SALT and BASELINE over several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from salt_jax.report.curves import LossCurve, passing_point
from salt_jax.report.intervals import Estimate
from salt_jax.report.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A BASELINE and a SALT run of one seed."""

    baseline: Run
    salt: Run

    @classmethod
    def read(cls, baseline: epath.PathLike, salt: epath.PathLike) -> Pair:
        """Reads two run directories.

        Raises:
          FileNotFoundError: a run was not trained, or not evaluated.
          ValueError: they have different seeds or numbers of steps.
        """
        pair = cls(baseline=Run.read(baseline), salt=Run.read(salt))
        for name, of in (
            ("seed", lambda run: run.experiment["seed"]),
            ("number of steps", lambda run: run.evaluation["step"]),
        ):
            if of(pair.baseline) != of(pair.salt):
                raise ValueError(
                    f"{baseline} has {name} {of(pair.baseline)} and {salt} "
                    f"{of(pair.salt)}: a pair needs equal ones."
                )
        return pair

    def losses(self, split: str) -> tuple[float, float]:
        """Returns the held-out losses of BASELINE and SALT [nats per token]."""
        totals = (run.total(split) for run in (self.baseline, self.salt))
        baseline, salt = (total["loss"] for total in totals)
        return baseline, salt

    def passing_share(self) -> float | None:
        """Returns the share of steps at which SALT reaches BASELINE's final loss."""
        curves = (LossCurve.of(run.records) for run in (self.salt, self.baseline))
        point = passing_point(*curves)
        return None if point is None else point.share_of_steps


def with_error(
    values: Sequence[float] | np.ndarray, form: str, *, interval: bool
) -> str:
    """Returns the mean over seeds as text and, of several, its standard error.

    Args:
      values: One value for each seed.
      form: The format of a number, such as "+.4f".
      interval: Whether Student's 95 % interval follows, in brackets.
    """
    found = Estimate.of(values)
    if found.error is None or found.t is None:
        return f"{found.mean:{form}}"
    shown = f"{found.mean:{form}} \u00b1 {found.error:{form.lstrip('+')}}"
    low, high = found.t
    return shown + f" [{low:{form}}, {high:{form}}]" * interval


def seeds_table(pairs: Sequence[Pair]) -> str:
    """Returns a Markdown table with one row per seed, and one for the mean.

    A negative difference favors SALT. In brackets: Student's 95 % interval over seeds.
    """
    header = (
        "| seed | BASELINE val | SALT val | difference | BASELINE test | SALT test | "
        "difference | SALT passes at |"
    )
    rows = [header, "|--:" * 8 + "|"]
    for pair in pairs:
        cells = [str(pair.baseline.experiment["seed"])]
        for split in ("val", "test"):
            baseline, salt = pair.losses(split)
            cells += [f"{baseline:.4f}", f"{salt:.4f}", f"{salt - baseline:+.4f}"]
        rows.append(_row([*cells, _share(pair.passing_share())]))
    return "\n".join([*rows, _row(_mean_cells(pairs))])


def _mean_cells(pairs: Sequence[Pair]) -> list[str]:
    cells = ["mean"]
    for split in ("val", "test"):
        baseline, salt = (np.array(x) for x in zip(*_losses(pairs, split), strict=True))
        cells += [f"{baseline.mean():.4f}", f"{salt.mean():.4f}"]
        cells += [with_error(salt - baseline, "+.4f", interval=True)]
    shares = [pair.passing_share() for pair in pairs]
    known = [share for share in shares if share is not None]
    whole = len(known) == len(shares)
    return [
        *cells,
        f"{np.mean(known):.0%}" if whole else f"{len(known)} of {len(shares)}",
    ]


def _losses(pairs: Sequence[Pair], split: str) -> list[tuple[float, float]]:
    return [pair.losses(split) for pair in pairs]


def _share(share: float | None) -> str:
    return "never" if share is None else f"{share:.0%} of the steps"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
