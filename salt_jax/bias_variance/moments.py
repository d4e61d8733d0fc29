"""Bias and variance of gradients by several kinds of labels, from their products.

With g_i the gradient of a batch by labels of kind i, and E the mean over batches:

    variance of i       E |g_i - E g_i|^2
    bias of i, squared  |E g_i - E g_0|^2, 0 being one-hot labels, which have no bias
    error of i          E |g_i - E g_0|^2 = bias of i, squared + variance of i

All are sums over parameters. Averaged over n batches, the variance is divided by n and
the bias stays.

Dimensions: K kinds of labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Gradient = Any  # A tree of arrays.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Unbiased estimates of what a batch's gradients are on average."""

    names: tuple[str, ...]  # Of the kinds of labels; the first are one-hot labels.
    count: int  # Batches.
    means_KK: np.ndarray  # Products of the expected gradients, <E g_i, E g_j>.
    covariances_KK: np.ndarray  # E <g_i - E g_i, g_j - E g_j>.

    @classmethod
    def of(
        cls, names: Sequence[str], count: int, sums_KK: Any, of_sums_KK: Any
    ) -> Moments:
        """Returns the moments of `count` batches.

        Args:
          names: Of the kinds of labels.
          count: The number of batches, 2 or more.
          sums_KK: Sums over batches of the products <g_i, g_j>.
          of_sums_KK: Products of the sums over batches, <sum g_i, sum g_j>.
        """
        sums_KK = np.asarray(sums_KK, np.float64)
        of_sums_KK = np.asarray(of_sums_KK, np.float64)
        covariances_KK = (sums_KK - of_sums_KK / count) / (count - 1)
        means_KK = of_sums_KK / count**2 - covariances_KK / count
        return cls(
            names=tuple(names),
            count=count,
            means_KK=means_KK,
            covariances_KK=covariances_KK,
        )

    def variance(self, name: str) -> float:
        """Returns E |g - E g|^2 of a batch, by the labels `name`."""
        i = self.names.index(name)
        return float(self.covariances_KK[i, i])

    def squared_mean(self) -> float:
        """Returns |E g|^2 by one-hot labels, which is 0 where training is done."""
        return float(self.means_KK[0, 0])

    def squared_bias(self, name: str) -> float:
        """Returns |E g - E g_0|^2; the estimate may be slightly negative."""
        return self._difference(self.means_KK, name)

    def difference_variance(self, name: str) -> float:
        """Returns the variance of g - g_0: of the bias's estimate, times `count`.

        By the true distribution as labels it is the part of the one-hot variance that
        comes from the choice of the targets, given their contexts.
        """
        return self._difference(self.covariances_KK, name)

    def equal_error(self, name: str) -> float:
        """Returns the batches over which both labels have the same error.

        A mean over fewer batches is nearer to the true gradient with the labels `name`,
        over more batches with one-hot labels. Infinite without bias, 0 if the variance
        is not smaller.
        """
        bias = self.squared_bias(name)
        saved = self.variance(self.names[0]) - self.variance(name)
        if saved <= 0:
            return 0.0
        return saved / bias if bias > 0 else math.inf

    def best_weight(self, name: str, batches: float = 1.0) -> float:
        """Returns the kd_weight w whose blend of both gradients has the least error.

        It minimizes w^2 bias + [(1 - w)^2 V_0 + w^2 V + 2 w (1 - w) C] / `batches`.
        """
        i = self.names.index(name)
        c = self.covariances_KK / batches
        bias = max(self.squared_bias(name), 0.0)
        curvature = bias + c[0, 0] + c[i, i] - 2 * c[0, i]
        if curvature <= 0:
            return 0.0
        return float(np.clip((c[0, 0] - c[0, i]) / curvature, 0.0, 1.0))

    def describe(self) -> dict[str, Any]:
        """Returns the numbers as JSON types."""
        soft = {
            name: {
                "variance": self.variance(name),
                "squared_bias": self.squared_bias(name),
                "squared_bias_noise": self.difference_variance(name) / self.count,
                "difference_variance": self.difference_variance(name),
                "equal_error_batches": self.equal_error(name),
                "best_kd_weight": self.best_weight(name),
            }
            for name in self.names[1:]
        }
        return {
            "batches": self.count,
            "squared_mean": self.squared_mean(),
            "one_hot": {"variance": self.variance(self.names[0])},
            "soft": soft,
        }

    def _difference(self, products_KK: np.ndarray, name: str) -> float:
        i = self.names.index(name)
        of = products_KK[i, i] - 2 * products_KK[0, i] + products_KK[0, 0]
        return float(of)


@jax.jit
def products(gradients: Sequence[Gradient]) -> jax.Array:
    """Returns the products <g_i, g_j> of gradients, float32 [K, K]."""

    def product(a: Gradient, b: Gradient) -> jax.Array:
        of = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision="highest"), a, b)
        return sum(jax.tree.leaves(of), jnp.zeros(()))

    return jnp.array([[product(a, b) for b in gradients] for a in gradients])


class MomentsOf:
    """Adds up batches; holds one sum of gradients for each kind of labels."""

    def __init__(self, names: Sequence[str]):
        self._names, self._count = tuple(names), 0
        self._sums: Any = None
        self._products_KK = np.zeros((len(names), len(names)))

    def add(self, gradients: Sequence[Gradient]) -> None:
        """Adds the gradients of a batch, one for each kind of labels."""
        self._count += 1
        self._products_KK += np.asarray(products(gradients), np.float64)
        self._sums = gradients if self._sums is None else _sum(self._sums, gradients)

    def moments(self) -> Moments:
        """Returns the moments of all batches.

        Raises:
          ValueError: there are fewer than two.
        """
        if self._count < 2:
            raise ValueError(f"A variance needs two batches, got {self._count}.")
        of_sums_KK = products(self._sums)
        return Moments.of(self._names, self._count, self._products_KK, of_sums_KK)


@jax.jit
def _sum(a: Sequence[Gradient], b: Sequence[Gradient]) -> Sequence[Gradient]:
    return jax.tree.map(jnp.add, a, b)
