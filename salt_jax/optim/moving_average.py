"""An exponential moving average of the parameters, kept beside them.

Averaging reduces the variance that the noise of gradients leaves in the parameters
(Polyak & Juditsky 1992). What is trained does not depend on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class AverageState:
    """An average of parameters; a part of the train state, so resuming is exact."""

    params: Any  # The average, float32, with the shape and sharding of the parameters.
    updates: jax.Array  # Updates that it covers, int32.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingAverage:
    """The mean of the parameters after each update, weighted by decay**age.

    The weights sum to 1 from the first update on, so the start has no weight: after k
    updates the newest parameters weigh (1 - decay) / (1 - decay**k), as in the bias
    correction of Adam (Kingma & Ba 2015, arXiv 1412.6980). An update that is `horizon`
    updates old weighs 1 / e of the newest one. So `decay` is a choice of a number of
    updates, whatever their batch size: 0.99 averages about 100. The average is about
    as old as its horizon: it lags behind while the loss falls fast, and gains most
    where the learning rate is high.

    A step without an update, dropped by a guard or left out by name, does not count.
    """

    decay: float  # Of a weight, from one update to the next.
    begin_step: int = 0  # Until then the average is a copy of the parameters.

    def __post_init__(self):
        if not 0.0 < self.decay < 1.0:
            raise ValueError(
                f"MovingAverage.decay must be above 0 and below 1, got {self.decay}: "
                "1 - 1 / N averages about N updates."
            )
        if self.begin_step < 0:
            raise ValueError(
                f"MovingAverage.begin_step must not be negative, got {self.begin_step}."
            )

    @property
    def horizon(self) -> float:
        """The number of updates that the average covers, 1 / (1 - decay)."""
        return 1.0 / (1.0 - self.decay)

    def init(self, params: Any) -> AverageState:
        """Returns the average before the first update: a copy of `params`."""
        return AverageState(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(self, state: AverageState, params: Any, step: jax.Array) -> AverageState:
        """Returns the average with one more update.

        Args:
          state: The average before.
          params: The parameters after the update.
          step: Steps made so far, including this one.
        """
        updates = state.updates + (step > self.begin_step)
        # The first update is kept as it is, not rounded by a difference and a sum.
        is_copy = updates <= 1
        # `expm1`, because 1 - decay**k would lose its digits where decay is close to 1.
        k = jnp.maximum(updates, 1).astype(jnp.float32)
        weight = (self.decay - 1.0) / jnp.expm1(k * math.log(self.decay))

        def mix(average: jax.Array, new: jax.Array) -> jax.Array:
            new = new.astype(average.dtype)
            return jnp.where(is_copy, new, average + weight * (new - average))

        return AverageState(jax.tree.map(mix, state.params, params), updates)
