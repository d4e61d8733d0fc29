"""How gradients become updates: AdamW and Adafactor, as values.

`init` of what `build` returns takes boxed parameters (`nn.Partitioned`) and boxes each
moment with the axes it has; `update` takes plain trees. Moments are float32 whatever
the parameters are. Schedules are read at the number of updates made, whatever number
of microbatches an update took.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from salt_jax.optim.adafactor import is_stacked, scale_by_adafactor
from salt_jax.optim.schedules import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101).

    The decay is multiplied by the learning rate; arrays of one dimension (norm scales)
    and biases, which have one for each head, do not decay.
    """

    learning_rate: Schedule
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # The largest global norm of a gradient.

    def __post_init__(self):
        _check_share(self, "b1", "b2")
        if self.eps <= 0.0:
            raise ValueError(f"AdamW.eps must be positive, got {self.eps}.")
        _check_decay_and_clip(self)

    def build(self) -> optax.GradientTransformation:
        """Returns the transformation of gradients into updates to be added."""
        return _in_float32(
            optax.chain(
                _clip(self.clip_norm),
                optax.scale_by_adam(self.b1, self.b2, self.eps),
                _descend(self.learning_rate, self.weight_decay),
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), each layer by itself.

    Without momentum it keeps, for a matrix, a row and a column where Adam keeps two
    matrices. Weight decay is as in `AdamW`.
    """

    learning_rate: Schedule
    momentum: float | None = None  # The paper's beta1; needs a float32 copy of params.
    # Whether the learning rate is relative to the RMS of each array (section 8).
    scale_by_parameter: bool = True
    min_dim_size_to_factor: int = 128  # Smaller arrays keep a moment per parameter.
    weight_decay: float = 0.0
    clip_norm: float | None = None  # The largest global norm of a gradient.

    def __post_init__(self):
        if self.momentum is not None:
            _check_share(self, "momentum")
        if self.min_dim_size_to_factor < 2:
            raise ValueError(
                f"Adafactor.min_dim_size_to_factor must be at least 2, got "
                f"{self.min_dim_size_to_factor}: there is nothing to factor in less."
            )
        _check_decay_and_clip(self)

    def build(self) -> optax.GradientTransformation:
        """Returns the transformation of gradients into updates to be added."""
        momentum = (
            optax.identity()
            if self.momentum is None
            else optax.ema(self.momentum, debias=False)
        )
        return _in_float32(
            optax.chain(
                _clip(self.clip_norm),
                scale_by_adafactor(
                    self.min_dim_size_to_factor, self.scale_by_parameter
                ),
                momentum,
                _descend(self.learning_rate, self.weight_decay),
            )
        )


class DescentState(NamedTuple):
    """Where in its schedule the learning rate is."""

    step: jax.Array  # Updates made so far, int32.


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs `inner` in float32, so that its state is float32 as well."""

    def cast(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates, state, params):
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(lambda params: inner.init(cast(params)), update)


def _clip(norm: float | None) -> optax.GradientTransformation:
    # Either way the state is the same, so a checkpoint fits with and without.
    return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def _descend(schedule: Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Returns -learning_rate (update + weight_decay param); see AdamW for the decay."""

    def init(params):
        del params
        return DescentState(jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        learning_rate = schedule(state.step)

        def descend(path, u, param):
            decays = param.ndim - is_stacked(path) > 1 and not _is_bias(path)
            return -learning_rate * (u + weight_decay * param if decays else u)

        updates = jax.tree_util.tree_map_with_path(descend, updates, params)
        return updates, DescentState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def _is_bias(path: tuple[Any, ...]) -> bool:
    return str(getattr(path[-1], "key", "")).endswith("_bias")


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
