"""Weighted means that can be added exactly.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class WeightedMean:
    """A weighted sum and its total weight.

    Adding two of these is exact; averaging two means is not. Divide only where a number
    is logged.
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values_BL: jax.Array, weights_BL: jax.Array) -> WeightedMean:
        """Returns the weighted sum of `values_BL` with the sum of the weights."""
        return cls(jnp.sum(values_BL * weights_BL), jnp.sum(weights_BL))

    def __add__(self, other: WeightedMean) -> WeightedMean:
        """Returns the weighted mean over both sets of values."""
        return WeightedMean(self.total + other.total, self.weight + other.weight)

    def mean(self) -> jax.Array:
        """Returns the mean; weights below 1 in total count as 1, so none gives 0."""
        return self.total / jnp.maximum(self.weight, 1.0)
