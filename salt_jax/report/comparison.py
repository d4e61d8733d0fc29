"""The three runs of a report: BASELINE, SALT, and the SLM that teaches SALT."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from etils import epath

from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.report.curves import (
    Clock,
    LossCurve,
    PassingPoint,
    passing_point,
    transition_step,
)
from salt_jax.report.runs import Run
from salt_jax.report.step_clock import StepClock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of a report, with their losses and costs at equal budgets.

    Raises:
      ValueError: the runs were not evaluated on the same splits and domains.
    """

    baseline: Run
    salt: Run
    slm: Run
    scoring: Mapping[str, float] | None  # "flops" and "seconds"; None: no scoring.
    scores: str | None = None  # Their directory.
    clock: StepClock | None = None  # None: step times were not measured.

    def __post_init__(self) -> None:
        found = {run.workdir: _measured(run) for run in self.models.values()}
        if len({str(measured) for measured in found.values()}) > 1:
            raise ValueError(
                f"The runs were evaluated on different splits and domains: {found}. "
                "Evaluate all of them on one prepared dataset."
            )

    @classmethod
    def read(
        cls,
        *,
        baseline: epath.PathLike,
        salt: epath.PathLike,
        slm: epath.PathLike,
        scores: epath.PathLike | None,
        step_times: epath.PathLike | None = None,
    ) -> Comparison:
        """Reads three run directories, the bill of scoring and the step times."""
        return cls(
            baseline=Run.read(baseline),
            salt=Run.read(salt),
            slm=Run.read(slm),
            scoring=None if scores is None else dataclasses.asdict(read_bill(scores)),
            scores=None if scores is None else str(scores),
            clock=None if step_times is None else StepClock.read(step_times),
        )

    @property
    def models(self) -> dict[str, Run]:
        """The runs by name, in display order."""
        return {"BASELINE": self.baseline, "SALT": self.salt, "SLM": self.slm}

    @property
    def directories(self) -> list[str]:
        """The directories of prepared sequences, of the scores and of the runs."""
        paths = [path for run in self.models.values() for path in run.data_paths]
        runs = [run.workdir for run in self.models.values()]
        return [*dict.fromkeys(paths), *([self.scores] if self.scores else []), *runs]

    @property
    def measures(self) -> tuple[str, ...]:
        """The budgets at which losses are compared."""
        return (
            ("steps", "flops") if self.clock is None else ("steps", "flops", "seconds")
        )

    @functools.cached_property
    def curves(self) -> dict[str, LossCurve]:
        """The held-out losses of BASELINE and SALT."""
        return self._curves("val_loss")

    @functools.cached_property
    def training_curves(self) -> dict[str, LossCurve]:
        """The training cross-entropies of BASELINE and SALT."""
        return self._curves("ce")

    @functools.cached_property
    def passing(self) -> PassingPoint | None:
        """The point where SALT reaches BASELINE's final loss, or None."""
        return passing_point(self.curves["SALT"], self.curves["BASELINE"])

    @property
    def transition(self) -> int | None:
        """The last step of SALT's first stage."""
        return transition_step(self.salt.records)

    def bill(self, what: str) -> float | None:
        """Returns the cost of the SLM's training and of scoring.

        Args:
          what: "steps": 0, they are not billed; "flops"; or "seconds" at measured step
            times: None if a step time is unknown.
        """
        if what == "steps":
            return 0.0
        parts = self.seconds_of(self.slm) if what == "seconds" else self.slm.spent(what)
        scoring = self.scoring_seconds if what == "seconds" else self.scoring_flops
        return None if parts is None or scoring is None else parts + scoring

    def seconds_of(self, run: Run) -> float | None:
        """Returns steps times step time of a run [s], None if not measured."""
        if self.clock is None or not self.clock.has(run):
            return None
        return float(self.clock.seconds(run, np.array(run.steps)))

    @property
    def scoring_flops(self) -> float:
        """The FLOPs of scoring; 0 without scores."""
        return 0.0 if self.scoring is None else float(self.scoring["flops"])

    @property
    def scoring_seconds(self) -> float | None:
        """The time of scoring [s], at the FLOP rate of the SLM's measured step."""
        if self.scoring is None:
            return 0.0
        if self.clock is None or not self.clock.has(self.slm):
            return None
        return self.scoring_flops / self.clock.flops_per_second(self.slm)

    def _curves(self, key: str) -> dict[str, LossCurve]:
        pair = {"BASELINE": self.baseline, "SALT": self.salt}
        return {
            name: LossCurve.of(run.records, key, self._clock_of(run))
            for name, run in pair.items()
        }

    def _clock_of(self, run: Run) -> Clock | None:
        clock = self.clock
        return None if clock is None else lambda steps: clock.seconds(run, steps)


def _measured(run: Run) -> dict[str, list[str]]:
    return {split: sorted(run.domains(split)) for split in run.evaluation["splits"]}
