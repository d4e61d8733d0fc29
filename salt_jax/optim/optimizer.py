"""AdamW and Adafactor as frozen values that build Optax transformations.

`init` of a transformation takes boxed parameters (`nn.Partitioned`) and boxes each
moment with its logical axes; `update` takes plain trees. Moments are always float32.
A schedule is evaluated at the number of updates made so far; microbatches do not count.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from salt_jax.optim.adafactor import Constants, scale_by_adafactor
from salt_jax.optim.schedules import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101).

    The decay is multiplied by the learning rate. Norm scales and biases do not decay.
    """

    learning_rate: Schedule
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # Upper bound of the gradient's global norm.

    def __post_init__(self):
        _check_share(self, "b1", "b2")
        if self.eps <= 0.0:
            raise ValueError(f"AdamW.eps must be positive, got {self.eps}.")
        _check_decay_and_clip(self)

    def build(self, facts: Any) -> optax.GradientTransformation:
        """Returns the transformation of gradients into updates.

        Args:
          facts: A tree like the parameters that says of each `is_matrix` (weight decay
            applies) and `is_stacked` (the first dimension counts layers).
        """
        return _in_float32(
            optax.chain(
                _clip(self.clip_norm),
                optax.scale_by_adam(self.b1, self.b2, self.eps),
                _descend(self.learning_rate, self.weight_decay, facts),
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), each layer separately.

    Without momentum, the state of a matrix is one row and one column; Adam keeps two
    matrices. Weight decay is as in `AdamW`.
    """

    learning_rate: Schedule
    momentum: float | None = None  # The paper's beta1; one float32 per parameter.
    # Whether the learning rate is relative to each array's RMS (section 8).
    scale_by_parameter: bool = True
    min_dim_size_to_factor: int = 128  # Smaller arrays keep one moment per element.
    # Names and values of section 9.
    decay_exponent: float = 0.8  # c in beta2 = 1 - t^-c.
    clip_threshold: float | None = 1.0  # d: bound of an update's RMS; None: no bound.
    epsilon_1: float = 1e-30  # Added to squared gradients.
    epsilon_2: float = 1e-3  # Lower bound of a parameter's RMS.
    weight_decay: float = 0.0
    clip_norm: float | None = None  # Upper bound of the gradient's global norm.

    def __post_init__(self):
        if self.momentum is not None:
            _check_share(self, "momentum")
        if self.min_dim_size_to_factor < 2:
            raise ValueError(
                "Adafactor.min_dim_size_to_factor must be at least 2, got "
                f"{self.min_dim_size_to_factor}."
            )
        if not 0.0 < self.decay_exponent <= 1.0:
            raise ValueError(
                "Adafactor.decay_exponent must be above 0 and at most 1, got "
                f"{self.decay_exponent}."
            )
        for name in ("clip_threshold", "epsilon_1", "epsilon_2"):
            value = getattr(self, name)
            if not (value is None and name == "clip_threshold") and not value > 0.0:
                raise ValueError(f"Adafactor.{name} must be positive, got {value}.")
        _check_decay_and_clip(self)

    def build(self, facts: Any) -> optax.GradientTransformation:
        """Returns the transformation of gradients into updates.

        Args:
          facts: A tree like the parameters that says of each `is_matrix` (weight decay
            applies) and `is_stacked` (the first dimension counts layers).
        """
        momentum = (
            optax.identity()
            if self.momentum is None
            else optax.ema(self.momentum, debias=False)
        )
        return _in_float32(
            optax.chain(
                _clip(self.clip_norm),
                scale_by_adafactor(
                    Constants(
                        **{
                            field.name: getattr(self, field.name)
                            for field in dataclasses.fields(Constants)
                        }
                    ),
                    jax.tree.map(lambda fact: fact.is_stacked, facts),
                ),
                momentum,
                _descend(self.learning_rate, self.weight_decay, facts),
            )
        )


class DescentState(NamedTuple):
    """The state of the learning rate's schedule."""

    step: jax.Array  # Steps made so far, int32.


def advance_schedules(opt_state: Any) -> Any:
    """Returns an optimizer's state after a step without an update.

    The learning rate goes on with the steps; the moments, and Adam's count of them,
    stay as they were.
    """

    def advance(node: Any) -> Any:
        if isinstance(node, DescentState):
            return DescentState(optax.safe_increment(node.step))
        return node

    is_leaf = lambda node: isinstance(node, DescentState)
    return jax.tree.map(advance, opt_state, is_leaf=is_leaf)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs `inner` in float32, so its state is float32 as well."""

    def cast(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates, state, params):
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(lambda params: inner.init(cast(params)), update)


def _clip(norm: float | None) -> optax.GradientTransformation:
    # Both have the same empty state, so a checkpoint can be read with either.
    return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def _descend(
    schedule: Schedule, weight_decay: float, facts: Any
) -> optax.GradientTransformation:
    """Returns -learning_rate (update + weight_decay param), the latter for matrices."""

    def init(params):
        del params
        return DescentState(jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        learning_rate = schedule(state.step)

        def descend(u, param, fact):
            return -learning_rate * (u + weight_decay * param if fact.is_matrix else u)

        updates = jax.tree.map(descend, updates, params, facts)
        return updates, DescentState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def _check_share(optimizer: AdamW | Adafactor, *names: str) -> None:
    for name in names:
        value = getattr(optimizer, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(
                f"{type(optimizer).__name__}.{name} must be at least 0 and below 1, "
                f"got {value}."
            )


def _check_decay_and_clip(optimizer: AdamW | Adafactor) -> None:
    label = type(optimizer).__name__
    if optimizer.weight_decay < 0.0:
        raise ValueError(
            f"{label}.weight_decay must not be negative, got {optimizer.weight_decay}."
        )
    if optimizer.clip_norm is not None and optimizer.clip_norm <= 0.0:
        raise ValueError(
            f"{label}.clip_norm must be positive, or None for no clipping, got "
            f"{optimizer.clip_norm}."
        )
