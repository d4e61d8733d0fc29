"""Attention over packed sequences.

Dimensions: B batch, L length, M attended length, D embed, H heads, G key-value
heads, R query heads per key-value head, K head_dim.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.attention_kernels import cudnn, splash
from salt_jax.model.cache import Cache
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import RMSNorm, add_bias, axes_of, project, rotate, weight


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Returns the attended values_BLHK; query head h reads key-value head h // R.

    Args:
      q_BLHK: Queries.
      k_BMGK: Keys.
      v_BMGK: Values.
      mask_BLM: True where the token at L may attend to the one at M.
      scale: What queries are multiplied with; by default K ** -0.5.
      softcap: What scores are bounded by, smoothly.
    """
    B, L, H, K = q_BLHK.shape
    scaled_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    q_BLGRK = scaled_BLHK.reshape(B, L, k_BMGK.shape[2], -1, K)
    # Heads first, once for each factor: scores then come out as softmax reads them.
    mixed_BGRLK = _mix_heads(
        q_BLGRK.transpose(0, 2, 3, 1, 4),
        k_BMGK.swapaxes(1, 2),
        v_BMGK.swapaxes(1, 2),
        mask_BLM,
        softcap,
    )
    return mixed_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mix_heads(
    q_BGRLK: jax.Array,
    k_BGMK: jax.Array,
    v_BGMK: jax.Array,
    mask_BLM: jax.Array,
    softcap: float | None,
) -> jax.Array:
    """Returns softmax(q k') v, where q k' are bounded by `softcap` unless it is None.

    The softmax is divided by its sum only when mixed, here and in the gradient: one
    pass less over its values, which are many, in each direction.
    """
    return _mix_heads_forward(q_BGRLK, k_BGMK, v_BGMK, mask_BLM, softcap)[0]


def _mix_heads_forward(q_BGRLK, k_BGMK, v_BGMK, mask_BLM, softcap):
    scores_BGRLM = _product("BGRLK,BGMK->BGRLM", q_BGRLK, k_BGMK)
    slope_BGRLM = None
    if softcap is not None:
        bounded_BGRLM = jnp.tanh(scores_BGRLM / softcap)
        scores_BGRLM = softcap * bounded_BGRLM
        slope_BGRLM = (1.0 - jnp.square(bounded_BGRLM)).astype(v_BGMK.dtype)
    lowest = jnp.finfo(jnp.float32).min
    scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGRLM, lowest)
    # In float32: in bfloat16 a long sum drops its small terms.
    exp_BGRLM = jnp.exp(scores_BGRLM - jnp.max(scores_BGRLM, axis=-1, keepdims=True))
    sum_BGRL1 = jnp.sum(exp_BGRLM, axis=-1, keepdims=True)
    exp_BGRLM = exp_BGRLM.astype(v_BGMK.dtype)
    mixed_BGRLK = _product("BGRLM,BGMK->BGRLK", exp_BGRLM, v_BGMK) / sum_BGRL1
    mixed_BGRLK = mixed_BGRLK.astype(v_BGMK.dtype)
    softmax = (exp_BGRLM, sum_BGRL1, slope_BGRLM)
    return mixed_BGRLK, (q_BGRLK, k_BGMK, v_BGMK, softmax, mixed_BGRLK)


def _mix_heads_backward(softcap, saved, gradient_BGRLK):
    del softcap  # Its slope is saved.
    q_BGRLK, k_BGMK, v_BGMK, (exp_BGRLM, sum_BGRL1, slope_BGRLM), mixed_BGRLK = saved
    dtype = q_BGRLK.dtype
    scaled_BGRLK = gradient_BGRLK / sum_BGRL1
    # What the softmax takes from all scores of a row, for adding up to 1.
    shared_BGRL1 = jnp.sum(scaled_BGRLK * mixed_BGRLK, axis=-1, keepdims=True)
    scaled_BGRLK = scaled_BGRLK.astype(dtype)
    dexp_BGRLM = _product("BGRLK,BGMK->BGRLM", scaled_BGRLK, v_BGMK)
    dscores_BGRLM = exp_BGRLM * (dexp_BGRLM - shared_BGRL1)
    if slope_BGRLM is not None:
        dscores_BGRLM = dscores_BGRLM * slope_BGRLM
    dscores_BGRLM = dscores_BGRLM.astype(dtype)
    dq_BGRLK = _product("BGRLM,BGMK->BGRLK", dscores_BGRLM, k_BGMK)
    dk_BGMK = _product("BGRLM,BGRLK->BGMK", dscores_BGRLM, q_BGRLK)
    dv_BGMK = _product("BGRLM,BGRLK->BGMK", exp_BGRLM, scaled_BGRLK)
    return dq_BGRLK.astype(dtype), dk_BGMK.astype(dtype), dv_BGMK.astype(dtype), None


_mix_heads.defvjp(_mix_heads_forward, _mix_heads_backward)


def _product(dimensions: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(dimensions, x, y, preferred_element_type=jnp.float32)


class Attention(nn.Module):
    """Self-attention with one key-value head for every `num_heads / num_kv_heads`."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        context: AttentionContext,
        cache: Cache | None = None,
        layer: jax.Array | int | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Returns what is attended to, and the cache with the keys and values of x.

        `layer` is the number of this layer, for a cache and for `context`.
        """
        config = self.config
        D, H, G, K = (
            config.embed_dim,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        cos, sin, mask_BLM = context.of_layer(layer, config)

        def heads(name: str, count: int, letter: str) -> jax.Array:
            axes = axes_of(f"D{letter}K")
            weight_DHK = weight(self, name, (D, count, K), axes, summed=axes_of("D"))
            dimensions = f"BLD,D{letter}K->BL{letter}K"
            x_BLHK = project(self.partitioning, dimensions, x_BLD, weight_DHK)
            if config.qkv_bias:
                x_BLHK = add_bias(self, f"{name}_bias", x_BLHK, axes[1:])
            if config.qk_norm and name != "value":
                x_BLHK = RMSNorm(config, "head_dim", name=f"{name}_norm")(x_BLHK)
            return x_BLHK

        q_BLHK = rotate(heads("query", H, "H"), cos, sin)
        k_BMGK = rotate(heads("key", G, "G"), cos, sin)
        v_BMGK = heads("value", G, "G")
        if cache is not None:
            assert layer is not None
            cache = cache.put(layer, k_BMGK, v_BMGK)
            k_BMGK, v_BMGK = cache.read(layer, config.dtype)
        mixed_BLHK = self._mix(q_BLHK, k_BMGK, v_BMGK, mask_BLM, context)
        out_HKD = weight(self, "out", (H, K, D), axes_of("HKD"), summed=axes_of("HK"))
        return project(self.partitioning, "BLHK,HKD->BLD", mixed_BLHK, out_HKD), cache

    def _mix(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        mask_BLM: jax.Array | None,
        context: AttentionContext,
    ) -> jax.Array:
        """Returns the attended values_BLHK, by the kernel of `context`.

        The length is whole on each device, whatever its rule: all see all of it.
        """

        def whole(x: jax.Array, heads: str) -> jax.Array:
            return self.partitioning.constrain(x, "batch", None, heads, "head_dim")

        q_BLHK = whole(q_BLHK, "heads")
        k_BMGK, v_BMGK = whole(k_BMGK, "kv_heads"), whole(v_BMGK, "kv_heads")
        q_k_v = (q_BLHK, k_BMGK, v_BMGK)
        scale, softcap = self.config.query_scale, self.config.attention_softcap
        if context.kernel == "splash":
            mixed_BLHK = splash(
                self.partitioning,
                *q_k_v,
                context.segments_BL,
                context.furthest_BL,
                scale=scale,
                softcap=softcap,
            )
        elif context.kernel == "cudnn":
            assert mask_BLM is not None
            mixed_BLHK = cudnn(self.partitioning, *q_k_v, mask_BLM, scale=scale)
        else:
            assert mask_BLM is not None
            mixed_BLHK = attend(*q_k_v, mask_BLM, scale=scale, softcap=softcap)
        return whole(mixed_BLHK, "heads")
