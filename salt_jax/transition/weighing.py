"""Weights of the teacher that depend on what was measured, as frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from salt_jax.transition import measures
from salt_jax.transition.measures import History


@runtime_checkable
class MeasuredWeight(Protocol):
    """The interface of a `kd_weight` that depends on what was measured.

    The weight of a step is the value of the schedule times `factor`, which is renewed
    after each validation of the stage.
    """

    @property
    def reads(self) -> Sequence[str]:
        """The names in `measures.ALL` that `factor` reads."""

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Returns the weight at a factor of 1, as a schedule does."""

    def factor(self, history: History) -> float:
        """Returns a factor from 0 to 1; before the first validation, of no history."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapProportional:
    """`peak` times the teacher's remaining lead, by its lead when the stage began.

    The lead is val_loss - val_teacher_loss. The weight is `peak` until the stage's
    first validation, whose lead is the whole; it stays from 0 to `peak`. It is 0 from a
    first validation at which the student is ahead.
    """

    peak: float

    reads: ClassVar[Sequence[str]] = (measures.VAL_LOSS, measures.VAL_TEACHER_LOSS)

    def __post_init__(self):
        if not 0.0 < self.peak <= 1.0:
            raise ValueError(
                f"GapProportional.peak must be above 0, and 1 at most, got {self.peak}."
            )

    def __call__(self, step: jax.Array | int) -> jax.Array:
        return jnp.full(jnp.shape(step), self.peak, jnp.float32)

    def factor(self, history: History) -> float:
        """Returns the remaining share of the first lead."""
        if not history:
            return 1.0
        whole, left = measures.lead(history[0]), measures.lead(history[-1])
        return min(max(left / whole, 0.0), 1.0) if whole > 0.0 else 0.0
