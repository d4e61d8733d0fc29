"""What a run is warned about: thresholds, each with the reason for its default.

How often each fires on good runs is in docs/warnings.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol


class Detector(Protocol):
    """A user's own warning, as a frozen value."""

    @property
    def name(self) -> str:
        """A word of letters and underscores; the record's field is warning_NAME."""

    def look(self, history: Any) -> str | None:
        """Returns what is wrong, as one line; None if nothing is.

        Args:
          history: A `History`, the newest record included. Only read it.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """The thresholds of all warnings. They change no number of a run."""

    baseline: str | None = None  # The run directory of BASELINE; None: not compared.
    # Validations in a row that must agree: one may be by chance.
    patience: int = 2
    # Nats by which the teacher's held-out loss must be below the student's. Both read
    # the same text, so any lead is one.
    teacher_lead: float = 0.0
    # The share of a stage before its trend is judged: a warm-up is mostly over.
    settled: float = 0.1
    # The share by which KL must have fallen by then. It falls by half within the first
    # tenth of a stage that works.
    kl_fall: float = 0.1
    # Nats of KL that are not worth a warning: a student that starts from its teacher.
    kl_near: float = 0.5
    # Standard errors, and nats, by which a change must exceed the noise. Text varies
    # with heavy tails, and every record is looked at: fewer would be chance.
    noises: float = 5.0
    jump: float = 0.05  # A third of what SALT gains at best.
    drift: float = 0.1  # Twice what shuffled text drifts by over a stage.
    # Validations without progress after a transition.
    plateau: int = 4
    # Nats above BASELINE's held-out loss; seeds differ by a fifth of it.
    baseline_lag: float = 0.1
    # The least share of the loss that either term may have.
    least_share: float = 0.05
    # The soft labels' loss by what it would be at temperature 1: below, labels are
    # nearly hard; above, nearly uniform. Temperatures from 0.75 to 1.25 are within.
    least_sharpening: float = 0.5
    most_softening: float = 1.35
    # The least share of its share in the data that a domain may keep in a selection.
    domain_share: float = 0.25
    also: Sequence[Detector] = ()

    def __post_init__(self):
        for name in ("patience", "plateau"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("settled", "kl_fall", "least_share", "domain_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1), got {getattr(self, name)}."
                )
        for name in ("kl_near", "noises", "jump", "drift", "baseline_lag"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} must not be negative, got {getattr(self, name)}."
                )
        if not 0.0 <= self.least_sharpening < 1.0 < self.most_softening:
            raise ValueError(
                "1 must be between least_sharpening and most_softening, got "
                f"{self.least_sharpening} and {self.most_softening}."
            )
        for detector in self.also:
            if not callable(getattr(detector, "look", None)):
                raise ValueError(
                    f"also takes detectors, which have look(history), got {detector!r}."
                )
