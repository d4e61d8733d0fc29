"""Norm, feed-forward, rotary positions, and how a weight is declared.

Dimensions: B batch, L length, D embed, F mlp, H heads, K head_dim.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from salt_jax.model.config import TransformerConfig

_ACTIVATIONS = {"gelu": nn.gelu, "silu": nn.silu}


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    fan_in: int,
) -> jax.Array:
    """Declares a float32 weight with logical `axes` and variance 1 / `fan_in`."""
    init = nn.initializers.truncated_normal(stddev=fan_in**-0.5)
    boxed = nn.with_partitioning(init, axes)
    value: Any = module.param(name, boxed, shape, jnp.float32)
    return value


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def project(axes: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns `jnp.einsum(axes, x, weight)`, computed in the dtype of `x`.

    The gradient of the weight is summed and returned in the weight's own dtype, with
    the factors in this order. JAX would round it to the dtype of `x`, and would put the
    gradient by the output first and so transpose that, which is often wider than x and
    computed once more, activation and all, for being transposed.
    """
    return jnp.einsum(axes, x, weight.astype(x.dtype))


def _project_forward(axes, x, weight):
    return project(axes, x, weight), (x, weight)


def _project_backward(axes, factors, gradient):
    x, weight = factors
    of_x, of_weight, of_output = axes.replace("->", ",").split(",")
    by_x = f"{of_output},{of_weight}->{of_x}"
    by_weight = f"{of_x},{of_output}->{of_weight}"
    return (
        jnp.einsum(by_x, gradient, weight.astype(x.dtype)),
        jnp.einsum(by_weight, x, gradient, preferred_element_type=weight.dtype),
    )


project.defvjp(_project_forward, _project_backward)


class RMSNorm(nn.Module):
    """Division by the root mean square over D, then a learned scale_D."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        init = nn.with_partitioning(nn.initializers.ones, ("act_embed",))
        scale_D: Any = self.param("scale", init, (x_BLD.shape[-1],), jnp.float32)
        # In float32: the mean of squares overflows the precision of bfloat16.
        x_BLD = x_BLD.astype(jnp.float32)
        mean_square_BL1 = jnp.mean(jnp.square(x_BLD), axis=-1, keepdims=True)
        x_BLD = x_BLD * jax.lax.rsqrt(mean_square_BL1 + self.config.norm_eps)
        return (x_BLD * scale_D[None, None, :]).astype(self.config.dtype)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), after Shazeer, arXiv 2002.05202."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        config = self.config
        D, F = config.embed_dim, config.mlp_dim
        gate_DF = weight(self, "gate", (D, F), ("embed", "mlp"), fan_in=D)
        up_DF = weight(self, "up", (D, F), ("embed", "mlp"), fan_in=D)
        down_FD = weight(self, "down", (F, D), ("mlp", "embed"), fan_in=F)
        activation = _ACTIVATIONS[config.activation]
        gate_BLF = project("BLD,DF->BLF", x_BLD, gate_DF)
        up_BLF = project("BLD,DF->BLF", x_BLD, up_DF)
        return project("BLF,FD->BLD", activation(gate_BLF) * up_BLF, down_FD)


def rotary_angles(
    positions_BL: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines and sines of shape BL1K/2 that `rotate` applies.

    Pair i of a head turns by position / theta**(2i / head_dim) radians (Su et al.,
    arXiv 2104.09864, eq. 15).
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = theta**-exponents
    angles = positions_BL[:, :, None, None] * frequencies[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BLHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates each head's first half against its second, as Llama and Gemma do."""
    halves = x_BLHK.astype(jnp.float32).reshape(*x_BLHK.shape[:-1], 2, -1)
    # Swapped rather than split and joined: one pass over x, and one over its gradient.
    along, across = jnp.stack([cos, cos], -2), jnp.stack([-sin, sin], -2)
    rotated = halves * along + jnp.flip(halves, -2) * across
    return rotated.reshape(x_BLHK.shape).astype(x_BLHK.dtype)
