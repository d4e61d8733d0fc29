"""Gates: which targets are distilled, and how strongly, as frozen values.

A gate maps what the loss knows of a target to a strength g in [0, 1]. The loss of the
target is (1 - w g) CE + w g KD with w = `kd_weight`: where g is 0, plain cross-entropy.
g has no gradient: it is a constant of the step, like w. Your own gate is any frozen
dataclass that can be called like these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class TokenValues(NamedTuple):
    """What the loss knows of some targets: arrays of one shape, without a gradient.

    Cross-entropies are in nats. The temperature is in `kd` alone.
    """

    ce: jax.Array  # -log p(target), of the student.
    kd: jax.Array  # Cross-entropy of the student to the teacher's soft labels.
    kl: jax.Array  # KL(q || p), of the teacher's q to the student's p.
    teacher_ce: jax.Array  # -log q(target), of the teacher.
    agreement: jax.Array  # bool: both models have one most likely token.
    teacher_wrong: jax.Array  # bool: the target is not the teacher's most likely token.
    # int32: how many tokens the teacher finds likelier than the target. None unless the
    # gate needs it.
    teacher_rank: jax.Array | None = None


class Gate(Protocol):
    """The interface of a gate."""

    @property
    def needs_rank(self) -> bool:
        """Whether it reads `TokenValues.teacher_rank`."""

    def __call__(self, values: TokenValues) -> jax.Array:
        """Returns the strength in [0, 1] of each target, or a bool.

        The targets are those of a chunk on a device: a strength depends on the values
        of its own target alone.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryToken:
    """Every target is distilled."""

    needs_rank: ClassVar[bool] = False

    def __call__(self, values: TokenValues) -> jax.Array:
        return jnp.ones_like(values.ce)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhereTeacherRanks:
    """Targets that are among the teacher's `k` most likely tokens."""

    k: int = 10
    needs_rank: ClassVar[bool] = True

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}.")

    def __call__(self, values: TokenValues) -> jax.Array:
        assert values.teacher_rank is not None
        return values.teacher_rank < self.k


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhereTeacherLeads:
    """Targets whose cross-entropy is lower by `margin` nats for the teacher."""

    margin: float = 0.0  # Below 0, the teacher may trail by as much.
    needs_rank: ClassVar[bool] = False

    def __post_init__(self):
        if not math.isfinite(self.margin):
            raise ValueError(f"margin must be finite, got {self.margin}.")

    def __call__(self, values: TokenValues) -> jax.Array:
        return values.teacher_ce < values.ce - self.margin


def check(gate: Gate) -> None:
    """Checks that a value is a gate.

    Raises:
      ValueError: it cannot be called or hashed, or does not say `needs_rank`.
    """
    name = type(gate).__name__
    if not callable(gate) or not isinstance(getattr(gate, "needs_rank", None), bool):
        raise ValueError(
            f"{name} is not a gate of targets: it must be callable and have "
            "needs_rank = True or False; see salt_jax/loss/gates.py."
        )
    try:
        hash(gate)
    except TypeError as error:
        raise ValueError(f"{name} must be a frozen dataclass: {error}.") from error


def strength(
    gate: Gate, values: Mapping[str, jax.Array], weights: jax.Array
) -> jax.Array:
    """Returns the float32 strength of each target, without a gradient.

    It is 0 for targets of weight 0, and NaN where the gate gives no number in [0, 1],
    so that the loss is NaN and the run stops.

    Args:
      gate: The gate.
      values: The fields of `TokenValues` by name, perhaps among others.
      weights: The weight of each target in the loss.

    Raises:
      ValueError: the gate gives another shape than one strength for each target.
    """
    fields = {name: values[name] for name in TokenValues._fields if name in values}
    given = TokenValues(**jax.lax.stop_gradient(fields))
    found = jax.lax.stop_gradient(jnp.asarray(gate(given), jnp.float32))
    if found.shape != weights.shape:
        raise ValueError(
            f"{type(gate).__name__} gives strengths of shape {found.shape} for targets "
            f"of shape {weights.shape}: it must give one for each."
        )
    found = jnp.where((found >= 0.0) & (found <= 1.0), found, jnp.nan)
    return jnp.where(weights > 0.0, found, 0.0)
