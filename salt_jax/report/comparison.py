"""The runs of a report side by side: BASELINE, SALT, and the SLM that helps SALT."""

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
    """The runs of a report, and what follows from them.

    Raises:
      ValueError: the runs were not evaluated on the same splits and domains.
    """

    baseline: Run
    salt: Run
    slm: Run
    scoring: Mapping[str, float] | None  # "flops" and "seconds", where there was any.
    scores: str | None = None  # Their folder.
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
        """The models, in the order in which they are shown."""
        return {"BASELINE": self.baseline, "SALT": self.salt, "SLM": self.slm}

    @property
    def directories(self) -> list[str]:
        """The prepared sequences that the runs read, the scores, and the runs."""
        paths = [path for run in self.models.values() for path in run.data_paths]
        runs = [run.workdir for run in self.models.values()]
        return [*dict.fromkeys(paths), *([self.scores] if self.scores else []), *runs]

    @property
    def measures(self) -> tuple[str, ...]:
        """What losses are compared at equal amounts of."""
        return (
            ("steps", "flops") if self.clock is None else ("steps", "flops", "seconds")
        )

    @functools.cached_property
    def curves(self) -> dict[str, LossCurve]:
        """The held-out losses of the two runs that are compared."""
        return self._curves("val_loss")

    @functools.cached_property
    def training_curves(self) -> dict[str, LossCurve]:
        """The cross-entropies on training text of the same runs."""
        return self._curves("ce")

    @functools.cached_property
    def passing(self) -> PassingPoint | None:
        """Where SALT has BASELINE's final loss, if it ever has."""
        return passing_point(self.curves["SALT"], self.curves["BASELINE"])

    @property
    def transition(self) -> int | None:
        """The step of SALT at which its first stage ended."""
        return transition_step(self.salt.records)

    def bill(self, what: str) -> float | None:
        """Returns what the SLM's training and scoring cost beside SALT's own training.

        Args:
          what: "steps", which are not billed: 0; "flops"; or "seconds" at measured step
            times, which are None where those are unknown.
        """
        if what == "steps":
            return 0.0
        parts = self.seconds_of(self.slm) if what == "seconds" else self.slm.spent(what)
        scoring = self.scoring_seconds if what == "seconds" else self.scoring_flops
        return None if parts is None or scoring is None else parts + scoring

    def seconds_of(self, run: Run) -> float | None:
        """Returns steps times measured step time of a run; None if not measured."""
        if self.clock is None or not self.clock.has(run):
            return None
        return float(self.clock.seconds(run, np.array(run.steps)))

    @property
    def scoring_flops(self) -> float:
        """FLOPs of making the scores; 0 where there are none."""
        return 0.0 if self.scoring is None else float(self.scoring["flops"])

    @property
    def scoring_seconds(self) -> float | None:
        """Seconds of making the scores at the FLOP rate of the SLM's measured step."""
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
