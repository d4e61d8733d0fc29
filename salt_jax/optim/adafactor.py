"""Adafactor's preconditioner, applied to each layer of a stack separately.

A scanned model stacks the arrays of its layers along a first axis. Every rule here that
looks at a whole array (rank, factoring, RMS) looks at one layer's array, so a scanned
model and an unrolled one are trained alike.

Source: Shazeer & Stern 2018, arXiv 1804.04235. Sections and algorithms are the paper's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class FactoredMoment(NamedTuple):
    """Means of squared gradients over each of the two factored dimensions."""

    row: jax.Array  # The array's shape without its largest dimension.
    column: jax.Array  # The array's shape without its second largest dimension.


class AdafactorState(NamedTuple):
    """The optimizer state of Adafactor."""

    step: jax.Array  # Updates made so far, int32.
    moments: Any  # Per parameter: a `FactoredMoment`, or an array of its shape.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of the paper, with its values (section 9)."""

    decay_exponent: float  # c in beta2 = 1 - t^-c.
    clip_threshold: float | None  # d: bound of an update's RMS before it is scaled.
    epsilon_1: float  # Added to squared gradients.
    epsilon_2: float  # Lower bound of a parameter's RMS.
    scale_by_parameter: bool  # Whether an update is multiplied by its parameter's RMS.
    # Arrays whose second largest dimension is smaller keep one moment per element.
    min_dim_size_to_factor: int


def scale_by_adafactor(
    constants: Constants, is_stacked: Any
) -> optax.GradientTransformation:
    """Returns U hat of Algorithms 4 and 5, times the parameter's RMS (section 8).

    Args:
      constants: The constants of the algorithms.
      is_stacked: A tree of bools: True where the first axis of a parameter counts
        layers.
    """
    min_size = constants.min_dim_size_to_factor

    def init(params):
        moments = jax.tree.map(
            lambda param, stacked: _init_moment(param, stacked, min_size),
            params,
            is_stacked,
            is_leaf=_is_box,
        )
        return AdafactorState(jnp.zeros((), jnp.int32), moments)

    def update(updates, state, params):
        step = optax.safe_increment(state.step)
        beta2 = 1.0 - step.astype(jnp.float32) ** -constants.decay_exponent  # 7.2.

        def of_layer(grad, moment, param):
            factored = isinstance(moment, FactoredMoment)
            precondition = _precondition_factored if factored else _precondition
            squared = jnp.square(grad) + constants.epsilon_1
            u, moment = precondition(grad, squared, moment, beta2)
            if constants.clip_threshold is not None:
                u = u / jnp.maximum(1.0, _rms(u) / constants.clip_threshold)  # 6.
            if constants.scale_by_parameter:
                u = u * jnp.maximum(constants.epsilon_2, _rms(param))
            return u, moment

        flat: Any = jax.tree.flatten(updates)
        leaves, tree = flat
        done = [
            (jax.vmap(of_layer) if stacked else of_layer)(grad, moment, param)
            for grad, moment, param, stacked in zip(
                leaves,
                tree.flatten_up_to(state.moments),
                tree.flatten_up_to(params),
                tree.flatten_up_to(is_stacked),
                strict=True,
            )
        ]
        updates, moments = (tree.unflatten(side) for side in zip(*done, strict=True))
        return updates, AdafactorState(step, moments)

    return optax.GradientTransformation(init, update)


def _is_factored(shape: tuple[int, ...], min_size: int) -> bool:
    return len(shape) > 1 and sorted(shape)[-2] >= min_size


def _factored_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the second largest and the largest axis; ties go to the last axis.

    The other axes are kept. A projection (embed, heads, head_dim) is factored over
    embed and head_dim for each head, and takes heads * (embed + head_dim) numbers.
    """
    *_, second, largest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return second, largest


def _init_moment(param: Any, stacked: bool, min_size: int) -> Any:
    """Returns the zero moment of `param`, boxed with its remaining axes if it is."""
    value = param.value if _is_box(param) else param
    shape = value.shape[stacked:]
    if not _is_factored(shape, min_size):
        return jax.tree.map(jnp.zeros_like, param)
    second, largest = (axis + stacked for axis in _factored_axes(shape))

    def without(axis):
        zeros = jnp.zeros(_drop(value.shape, axis), value.dtype)
        if not _is_box(param):
            return zeros
        return nn.Partitioned(zeros, names=_drop(param.names, axis))

    return FactoredMoment(row=without(largest), column=without(second))


def _precondition(
    grad: jax.Array, squared: jax.Array, moment: jax.Array, beta2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Divides one layer's gradient by the root of its second moment (Algorithm 5)."""
    moment = beta2 * moment + (1.0 - beta2) * squared
    return grad * jax.lax.rsqrt(moment), moment


def _precondition_factored(
    grad: jax.Array, squared: jax.Array, moment: FactoredMoment, beta2: jax.Array
) -> tuple[jax.Array, FactoredMoment]:
    """Divides one layer's gradient by the root of R C / (1' R) (Algorithm 4).

    R and C are means here and sums in the paper; the quotient is the same.
    """
    second, largest = _factored_axes(grad.shape)
    row = beta2 * moment.row + (1.0 - beta2) * jnp.mean(squared, axis=largest)
    column = beta2 * moment.column + (1.0 - beta2) * jnp.mean(squared, axis=second)
    row_1 = jnp.expand_dims(row, largest)
    scale = row_1 / jnp.mean(row_1, axis=second, keepdims=True)
    # Two roots, not one: the product of two moments may underflow float32.
    u = grad * jax.lax.rsqrt(scale) * jax.lax.rsqrt(jnp.expand_dims(column, second))
    return u, FactoredMoment(row, column)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _is_box(node: Any) -> bool:
    return isinstance(node, nn.Partitioned)


def _drop(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]
