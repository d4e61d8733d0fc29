"""Means that can be added.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class WeightedMean:
    """A sum and the weight it was taken over.

    Adding two of these is exact; averaging two averages is not. Keep the pair
    until a number is logged.
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values_BL: jax.Array, weights_BL: jax.Array) -> WeightedMean:
        """Returns the weighted sum of `values_BL` and the sum of the weights."""
        return cls(jnp.sum(values_BL * weights_BL), jnp.sum(weights_BL))

    def __add__(self, other: WeightedMean) -> WeightedMean:
        """Returns the pair over both sets of values."""
        return WeightedMean(self.total + other.total, self.weight + other.weight)

    def mean(self) -> jax.Array:
        """Returns the mean, or zero over no weight at all."""
        return self.total / jnp.maximum(self.weight, 1.0)
