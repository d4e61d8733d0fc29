"""Rules that end a stage before its `end_step`, as frozen values.

A rule is a pure function of the validations of its stage so far. `end_step` stays the
latest end; the learning rate and the order of the data do not depend on the rule.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from salt_jax.transition import measures
from salt_jax.transition.measures import History

_GAINS = {"kl": measures.VAL_KL, "gradient_agreement": measures.VAL_GRADIENT_AGREEMENT}


@runtime_checkable
class LeaveRule(Protocol):
    """The interface of a leave rule."""

    @property
    def reads(self) -> Sequence[str]:
        """The names in `measures.ALL` that `reason` reads; empty: it is not asked."""

    def reason(self, history: History) -> dict[str, float] | None:
        """Returns the numbers for which the stage ends now; None: it goes on.

        Called after each validation of the stage but one at its `end_step`.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtEnd:
    """The stage ends at its `end_step`; nothing is measured for it."""

    reads: ClassVar[Sequence[str]] = ()

    def reason(self, history: History) -> None:
        """Never ends a stage early."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhenStudentReaches:
    """The stage ends when the student's held-out loss has reached the teacher's.

    `patience` validations in a row have val_loss <= val_teacher_loss + `margin`, the
    last of them at `not_before` or later.
    """

    margin: float = 0.0  # [nats/token]; below 0, the student must be ahead by as much.
    patience: int = 1
    not_before: int = 0  # A step, counted from the start of the experiment.

    reads: ClassVar[Sequence[str]] = (measures.VAL_LOSS, measures.VAL_TEACHER_LOSS)

    def __post_init__(self):
        _check_finite(self, "margin")
        _check_counts(self)

    def reason(self, history: History) -> dict[str, float] | None:
        """Returns the largest lead of the teacher among the last validations."""
        if (last := _last(history, self.patience, self.not_before)) is None:
            return None
        lead = max(map(measures.lead, last))
        return {"lead": lead, "margin": self.margin} if lead <= self.margin else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhenGainStalls:
    """The stage ends when the teacher has little left to give.

    On "kl", the gain of a validation is the share of KL(teacher || student) that is
    gone since the validation before it. On "gradient_agreement", it is the cosine of
    the gradients of cross-entropy and of distillation, which costs two backward passes
    at each validation. The stage ends once `patience` validations in a row have a gain
    of `least` or less, the last of them at `not_before` or later.
    """

    on: str = "kl"
    least: float
    patience: int = 1
    not_before: int = 0  # A step, counted from the start of the experiment.

    def __post_init__(self):
        if self.on not in _GAINS:
            raise ValueError(
                f"WhenGainStalls.on={self.on!r} is not one of {', '.join(_GAINS)}."
            )
        _check_finite(self, "least")
        _check_counts(self)

    @property
    def reads(self) -> Sequence[str]:
        """One measure, by `on`."""
        return (_GAINS[self.on],)

    def reason(self, history: History) -> dict[str, float] | None:
        """Returns the largest gain among the last validations."""
        falls = self.on == "kl"
        if (last := _last(history, self.patience + falls, self.not_before)) is None:
            return None
        gains = [each[_GAINS[self.on]] for each in last]
        if falls:
            pairs = itertools.pairwise(gains)
            gains = [1.0 - now / before if before > 0 else 0.0 for before, now in pairs]
        gain = max(gains)
        return {"gain": gain, "least": self.least} if gain <= self.least else None


def _last(history: History, count: int, not_before: int) -> History | None:
    """Returns the last `count` validations; None if there are fewer, or too early."""
    if len(history) < count or history[-1]["step"] < not_before:
        return None
    return history[-count:]


def _check_finite(rule: LeaveRule, name: str) -> None:
    if not math.isfinite(value := getattr(rule, name)):
        raise ValueError(f"{type(rule).__name__}.{name} must be finite, got {value}.")


def _check_counts(rule: WhenStudentReaches | WhenGainStalls) -> None:
    for name, least in (("patience", 1), ("not_before", 0)):
        if (value := getattr(rule, name)) < least:
            raise ValueError(
                f"{type(rule).__name__}.{name} must be at least {least}, got {value}."
            )
