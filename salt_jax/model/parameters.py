"""The declaration of parameters, with the facts that other code needs.

`declare` boxes a parameter with its logical axes and with the axes that its product
sums over. `parameter_facts(model)` reads the boxes. Quantization, weight decay,
Adafactor and the tensors of Hugging Face follow from these facts, not from names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

STACK = "layers"  # The key, and the leading logical axis, of all layers' parameters.


def layer_name(layer: int) -> str:
    """Returns the key of one layer's parameters in a model that is not scanned."""
    return f"layer_{layer}"


def is_in_stack(path: Sequence[str]) -> bool:
    """Returns whether the keys of `path` lead to an array of all layers."""
    return STACK in path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterFacts:
    """The shape of a parameter, and the meaning of its dimensions."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]  # The logical axis of each dimension.
    summed: tuple[str, ...]  # The axes that its product sums over; () if no matrix.

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter is a factor of a matrix product.

        Only matrices decay and are quantized. Norm scales and biases are not matrices,
        though a bias has two dimensions: heads and head_dim.
        """
        return bool(self.summed)

    @property
    def is_stacked(self) -> bool:
        """Whether the first dimension counts layers."""
        return self.axes[0] == STACK

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The shape of one layer's array; `shape` if the array is no stack."""
        return self.shape[self.is_stacked :]

    @property
    def summed_dimensions(self) -> tuple[int, ...]:
        """The indices in `shape` of the dimensions that the product sums over."""
        return tuple(i for i, axis in enumerate(self.axes) if axis in self.summed)


class Parameter(nn.Partitioned):
    """A declared parameter: an array, boxed with its logical axes and summed axes."""

    summed: tuple[str, ...] = flax.struct.field(default=(), pytree_node=False)

    @property
    def facts(self) -> ParameterFacts:
        """The shape and axes of the parameter."""
        axes: Any = self.names  # Never None: `declare` names every axis.
        return ParameterFacts(shape=self.value.shape, axes=axes, summed=self.summed)


def declare(
    module: nn.Module,
    name: str,
    init: jax.nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    summed: tuple[str, ...] = (),
) -> jax.Array:
    """Declares a float32 parameter of `module` and returns its value.

    Args:
      module: The module that has the parameter.
      name: The parameter's key in the module.
      init: Makes the initial value.
      shape: The shape of one layer's array.
      axes: The logical axis of each dimension.
      summed: The axes that the parameter's product sums over; () if no matrix.
    """

    def boxed(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Parameter:
        return Parameter(init(key, shape, dtype), names=axes, summed=summed)

    value: Any = module.param(name, boxed, shape, jnp.float32)
    return value
