"""Adafactor's preconditioner, which treats the layers of a stack one by one.

Leaves below the key "layers" hold one array per layer along their first axis. Every
rule here that looks at more than one number (rank, factoring, RMS) looks at one
layer's array, so that a scanned model and an unrolled one are trained alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

STACKED = "layers"

# Of Adafactor; names and values of Shazeer & Stern 2018 (arXiv 1804.04235), section 9.
EPSILON_1 = 1e-30  # Added to squared gradients.
EPSILON_2 = 1e-3  # The least that a parameter's RMS is taken for.
CLIP_THRESHOLD = 1.0  # d, the largest RMS of an update before it is scaled.
DECAY_EXPONENT = 0.8  # c in beta2 = 1 - t^-c.


class FactoredMoment(NamedTuple):
    """Means of squared gradients over either of the two factored dimensions."""

    row: jax.Array  # Of the array's shape without its largest dimension.
    column: jax.Array  # Of the array's shape without its second largest.


class AdafactorState(NamedTuple):
    """What Adafactor remembers between updates."""

    step: jax.Array  # Updates made so far, int32.
    moments: Any  # Per parameter: a `FactoredMoment`, or an array of its shape.


def scale_by_adafactor(
    min_dim_size_to_factor: int, scale_by_parameter: bool
) -> optax.GradientTransformation:
    """Returns U hat of Algorithms 4 and 5, times the parameter's RMS (section 8)."""

    def init(params):
        def make(path, param):
            return _init_moment(param, is_stacked(path), min_dim_size_to_factor)

        moments = jax.tree_util.tree_map_with_path(make, params, is_leaf=_is_box)
        return AdafactorState(jnp.zeros((), jnp.int32), moments)

    def update(updates, state, params):
        step = optax.safe_increment(state.step)
        beta2 = 1.0 - step.astype(jnp.float32) ** -DECAY_EXPONENT  # Section 7.2.

        def of_layer(grad, moment, param):
            factored = isinstance(moment, FactoredMoment)
            precondition = _precondition_factored if factored else _precondition
            u, moment = precondition(grad, moment, beta2)
            u = u / jnp.maximum(1.0, _rms(u) / CLIP_THRESHOLD)  # Section 6.
            if scale_by_parameter:
                u = u * jnp.maximum(EPSILON_2, _rms(param))
            return u, moment

        flat: Any = jax.tree_util.tree_flatten_with_path(updates)
        leaves, tree = flat
        done = [
            _each_layer(of_layer, path)(grad, moment, param)
            for (path, grad), moment, param in zip(
                leaves,
                tree.flatten_up_to(state.moments),
                tree.flatten_up_to(params),
                strict=True,
            )
        ]
        updates, moments = (tree.unflatten(side) for side in zip(*done, strict=True))
        return updates, AdafactorState(step, moments)

    return optax.GradientTransformation(init, update)


def is_stacked(path: Any) -> bool:
    """Returns whether the leaf at the key path `path` is a stack of layers' arrays."""
    return any(getattr(entry, "key", None) == STACKED for entry in path)


def _is_factored(shape: tuple[int, ...], min_size: int) -> bool:
    return len(shape) > 1 and sorted(shape)[-2] >= min_size


def _factored_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the second largest and the largest axis; of equals the last is larger.

    The other axes are kept: a projection (embed, heads, head_dim) is factored over
    embed and head_dim, head by head, which keeps the heads' statistics apart for
    heads * (embed + head_dim) numbers.
    """
    *_, second, largest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return second, largest


def _init_moment(param: Any, stacked: bool, min_size: int) -> Any:
    """Returns the zero moment of `param`, boxed with the axes that remain if it is."""
    value = param.value if _is_box(param) else param
    shape = value.shape[stacked:]
    if not _is_factored(shape, min_size):
        return jax.tree.map(jnp.zeros_like, param)
    second, largest = (axis + stacked for axis in _factored_axes(shape))

    def without(axis):
        zeros = jnp.zeros(_drop(value.shape, axis), value.dtype)
        if not _is_box(param):
            return zeros
        return param.replace(value=zeros, names=_drop(param.names, axis))

    return FactoredMoment(row=without(largest), column=without(second))


def _precondition(
    grad: jax.Array, moment: jax.Array, beta2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Divides by the root of the second moment (Algorithm 5), one layer's array."""
    squared = jnp.square(grad) + EPSILON_1
    moment = beta2 * moment + (1.0 - beta2) * squared
    return grad * jax.lax.rsqrt(moment), moment


def _precondition_factored(
    grad: jax.Array, moment: FactoredMoment, beta2: jax.Array
) -> tuple[jax.Array, FactoredMoment]:
    """Divides by the root of R C / (1' R) (Algorithm 4), one layer's array.

    With means for the paper's sums: the quotient is the same.
    """
    second, largest = _factored_axes(grad.shape)
    squared = jnp.square(grad) + EPSILON_1
    row = beta2 * moment.row + (1.0 - beta2) * jnp.mean(squared, axis=largest)
    column = beta2 * moment.column + (1.0 - beta2) * jnp.mean(squared, axis=second)
    row_1 = jnp.expand_dims(row, largest)
    scale = row_1 / jnp.mean(row_1, axis=second, keepdims=True)
    # Not one quotient: the product of two moments may be below float32's least.
    u = grad * jax.lax.rsqrt(scale) * jax.lax.rsqrt(jnp.expand_dims(column, second))
    return u, FactoredMoment(row, column)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _each_layer(function: Callable[..., Any], path: Any) -> Callable[..., Any]:
    return jax.vmap(function) if is_stacked(path) else function


def _is_box(node: Any) -> bool:
    return isinstance(node, nn.Partitioned)


def _drop(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]
