"""Attention in plain JAX operations with a hand-written gradient, for any device.

The values are those of `attention_reference`, but for rounding. It is faster because
the softmax is divided by its sum only after the product with the values, as in
FlashAttention-2 (Dao 2023, arXiv 2307.08691, section 3.1): the scores are passed over
once less in each direction.

Dimensions: B batch, L length, M attended length, H heads, G key-value heads, R query
heads per key-value head, K head_dim.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def xla(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Returns the attended values_BLHK; arguments are those of `reference`."""
    B, L, H, K = q_BLHK.shape
    scaled_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    q_BLGRK = scaled_BLHK.reshape(B, L, k_BMGK.shape[2], -1, K)
    # Heads come first in each factor, so scores are laid out as softmax reads them.
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
    """Returns softmax(q k') v; a `softcap` bounds the scores q k'."""
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
    del softcap  # The forward pass saved its slope.
    q_BGRLK, k_BGMK, v_BGMK, (exp_BGRLM, sum_BGRL1, slope_BGRLM), mixed_BGRLK = saved
    dtype = q_BGRLK.dtype
    scaled_BGRLK = gradient_BGRLK / sum_BGRL1
    # The softmax's gradient subtracts this from each score of a row.
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
