"""Attention by its formula, without a hand-written gradient: what kernels must equal.

Dimensions: B batch, L length, M attended length, H heads, G key-value heads, R query
heads per key-value head, K head_dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def reference(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Returns softmax(scale q k') v as values_BLHK.

    Query head h reads key-value head h // R. Scores and softmax are float32.

    Args:
      q_BLHK: Queries.
      k_BMGK: Keys.
      v_BMGK: Values.
      mask_BLM: True where the token at L may attend to the one at M.
      scale: Multiplies the queries; K ** -0.5 by default.
      softcap: Scores s become softcap * tanh(s / softcap); None leaves them alone.
    """
    B, L, H, K = q_BLHK.shape
    q_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    q_BLGRK = q_BLHK.reshape(B, L, k_BMGK.shape[2], -1, K)
    scores_BGRLM = jnp.einsum(
        "BLGRK,BMGK->BGRLM", q_BLGRK, k_BMGK, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        scores_BGRLM = softcap * jnp.tanh(scores_BGRLM / softcap)
    lowest = jnp.finfo(jnp.float32).min
    scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGRLM, lowest)
    # In float32: in bfloat16 a long sum drops its small terms.
    softmax_BGRLM = jax.nn.softmax(scores_BGRLM).astype(v_BMGK.dtype)
    mixed_BLGRK = jnp.einsum("BGRLM,BMGK->BLGRK", softmax_BGRLM, v_BMGK)
    return mixed_BLGRK.reshape(B, L, H, K)
