"""RMSNorm, gated feed-forward, rotary positions, and projections by a weight.

Dimensions: B batch, L length, D embed, F mlp, H heads, G key-value heads, K head_dim.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.config import RopeScaling, TransformerConfig
from salt_jax.model.parameters import declare

# The logical axis of each dimension of a weight.
_AXES = {
    "D": "embed",
    "F": "mlp",
    "G": "kv_heads",
    "H": "heads",
    "K": "head_dim",
}
_ACTIVATIONS = {"gelu": nn.gelu, "silu": nn.silu}


def axes_of(dimensions: str) -> tuple[str, ...]:
    """Returns the logical axes of a weight with `dimensions`, such as "DHK"."""
    return tuple(_AXES[letter] for letter in dimensions)


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    summed: tuple[str, ...],
    scale: float,
) -> jax.Array:
    """Declares a matrix whose initial values have variance 0.774 scale**2 / fan-in.

    The fan-in is the size of the `summed` axes. The values are drawn from a normal
    distribution of variance scale**2 / fan-in, truncated at two standard deviations,
    which leaves 0.774 of the variance.
    """
    sizes = dict(zip(axes, shape, strict=True))
    fan_in = math.prod(sizes[axis] for axis in summed)
    init = nn.initializers.truncated_normal(stddev=scale * fan_in**-0.5)
    return declare(module, name, init, shape, axes, summed=summed)


def project(
    partitioning: Partitioning, dimensions: str, x: jax.Array, weight: jax.Array
) -> jax.Array:
    """Returns `jnp.einsum(dimensions, x, weight)`, computed in the dtype of `x`.

    The weight is cast first and all-gathered second. Left to choose, XLA gathers
    float32, which moves twice the bytes.

    The gradient by the weight is hand-written for two reasons. It is accumulated and
    returned in the weight's own dtype, where JAX would round it to the dtype of `x`.
    And x is its first factor: JAX would put the output's gradient first and transpose
    it, and XLA would then recompute that often wider array, activation included.
    """
    return _project(_Projection(partitioning, dimensions), x, weight)


@dataclasses.dataclass(frozen=True)
class _Projection:
    partitioning: Partitioning
    dimensions: str

    @property
    def operands(self) -> list[str]:
        """The dimensions of x, the weight and the output."""
        return self.dimensions.replace("->", ",").split(",")

    @property
    def axes(self) -> tuple[str, ...]:
        return axes_of(self.operands[1])

    def gather(self, weight: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.partitioning.gather(weight.astype(dtype), *self.axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(projection: _Projection, x: jax.Array, weight: jax.Array) -> jax.Array:
    return _project_forward(projection, x, weight)[0]


def _project_forward(projection, x, weight):
    # Not a call of `_project`: a remat policy has to see the product itself.
    output = jnp.einsum(projection.dimensions, x, projection.gather(weight, x.dtype))
    return output, (x, weight)


def _project_backward(projection, factors, gradient):
    x, weight = factors
    of_x, of_weight, of_output = projection.operands
    by_x = f"{of_output},{of_weight}->{of_x}"
    by_weight = f"{of_x},{of_output}->{of_weight}"
    dweight = jnp.einsum(by_weight, x, gradient, preferred_element_type=weight.dtype)
    return (
        jnp.einsum(by_x, gradient, projection.gather(weight, x.dtype)),
        projection.partitioning.scatter(dweight, *projection.axes),
    )


_project.defvjp(_project_forward, _project_backward)


def add_bias(
    module: nn.Module, name: str, x_BLHK: jax.Array, axes: tuple[str, ...]
) -> jax.Array:
    """Returns x_BLHK plus a learned bias_HK with logical `axes`, in the dtype of x."""
    bias_HK = declare(module, name, nn.initializers.zeros, x_BLHK.shape[2:], axes)
    # Added in float32, because the gradient of a bias is a sum over all tokens.
    return (x_BLHK.astype(jnp.float32) + bias_HK[None, None]).astype(x_BLHK.dtype)


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

    y = scale * x / sqrt(mean(x**2) + eps), or (1 + scale) if norms are zero-centered.
    `axis` is the logical axis of the last dimension.
    """

    config: TransformerConfig
    axis: str = "act_embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        is_zero_centered = self.config.zero_centered_norm
        init = nn.initializers.zeros if is_zero_centered else nn.initializers.ones
        scale_D = declare(self, "scale", init, (x.shape[-1],), (self.axis,))
        # Cast before 1 is added: 1 + scale would be rounded in bfloat16.
        scale_D = scale_D.astype(jnp.float32)
        if is_zero_centered:
            scale_D = 1.0 + scale_D
        # In float32: in bfloat16 the mean of squares drops small terms.
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + self.config.norm_eps)
        scale = jnp.expand_dims(scale_D, range(x.ndim - 1))
        return (x * scale).astype(self.config.dtype)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        config, partitioning = self.config, self.partitioning
        D, F = config.embed_dim, config.mlp_dim
        shape, axes, summed = (D, F), axes_of("DF"), axes_of("D")
        scale = config.init_scale
        gate_DF = weight(self, "gate", shape, axes, summed=summed, scale=scale)
        up_DF = weight(self, "up", shape, axes, summed=summed, scale=scale)
        shape, axes, summed = (F, D), axes_of("FD"), axes_of("F")
        scale = config.output_init_scale
        down_FD = weight(self, "down", shape, axes, summed=summed, scale=scale)
        activation = _ACTIVATIONS[config.activation]
        gate_BLF = project(partitioning, "BLD,DF->BLF", x_BLD, gate_DF)
        up_BLF = project(partitioning, "BLD,DF->BLF", x_BLD, up_DF)
        mixed_BLF = activation(gate_BLF) * up_BLF
        return project(partitioning, "BLF,FD->BLD", mixed_BLF, down_FD)


def rotary_angles(
    positions_BL: jax.Array,
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines and sines for `rotate`, each of shape [B, L, 1, K / 2].

    Pair i of a head turns by position / theta**(2i / head_dim) radians (Su et al. 2021,
    arXiv 2104.09864, eq. 15). `scaling` lowers the frequencies.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = theta**-exponents
    if scaling is not None:
        frequencies = _slow_down(frequencies, scaling)
    angles = positions_BL[:, :, None, None] * frequencies[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def _slow_down(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    assert low is not None and high is not None and scaling.original_max_len is not None
    turns = frequencies * (scaling.original_max_len / (2.0 * math.pi))
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def rotate(x_BLHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates pairs (i, i + K / 2) of each head, the order of Llama and Gemma."""
    halves = x_BLHK.astype(jnp.float32).reshape(*x_BLHK.shape[:-1], 2, -1)
    # A flip, not a split and a concatenation: one pass over x and over its gradient.
    along, across = jnp.stack([cos, cos], -2), jnp.stack([-sin, sin], -2)
    rotated = halves * along + jnp.flip(halves, -2) * across
    return rotated.reshape(x_BLHK.shape).astype(x_BLHK.dtype)
