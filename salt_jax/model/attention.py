"""Attention over packed sequences.

Dimensions: B batch, L length, M attended length, D embed, H heads, G key-value
heads, R query heads per key-value head, K head_dim.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from salt_jax.batch import Batch
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import project, rotary_angles, rotate, weight
from salt_jax.partitioning import Partitioning


@flax.struct.dataclass
class AttentionContext:
    """What the layers share: who may look at whom, and the rotary angles."""

    mask_BLM: jax.Array  # True where the token at L may attend to the one at M.
    cos: jax.Array
    sin: jax.Array

    @classmethod
    def of(cls, batch: Batch, config: TransformerConfig) -> AttentionContext:
        """Returns the context of `batch`."""
        cos, sin = rotary_angles(batch.positions_BL, config.head_dim, config.rope_theta)
        return cls(attention_mask(batch.segments_BL, batch.prefix_BL), cos, sin)


def attention_mask(
    segments_BL: jax.Array, prefix_BL: jax.Array | None = None
) -> jax.Array:
    """Returns the mask_BLM of documents packed into rows.

    A token sees the tokens of its own segment that do not come after it and, where
    `prefix_BL` is True, those that do: a prefix is seen by its whole document.
    """
    length = segments_BL.shape[1]
    visible_1LM = jnp.tril(jnp.ones((length, length), dtype=bool))[None]
    if prefix_BL is not None:
        visible_1LM = visible_1LM | prefix_BL[:, None, :]
    return visible_1LM & (segments_BL[:, :, None] == segments_BL[:, None, :])


def attend(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask_BLM: jax.Array
) -> jax.Array:
    """Returns the attended values_BLHK; query head h reads key-value head h // R."""
    B, L, H, K = q_BLHK.shape
    q_BLGRK = q_BLHK.reshape(B, L, k_BMGK.shape[2], -1, K)
    scores_BGRLM = jnp.einsum(
        "BLGRK,BMGK->BGRLM", q_BLGRK, k_BMGK, preferred_element_type=jnp.float32
    )
    masked_BGRLM = jnp.where(
        mask_BLM[:, None, None], scores_BGRLM * K**-0.5, jnp.finfo(jnp.float32).min
    )
    # Softmax in float32: in bfloat16 a long sum drops its small terms.
    attention_BGRLM = jax.nn.softmax(masked_BGRLM).astype(v_BMGK.dtype)
    mixed_BLGRK = jnp.einsum("BGRLM,BMGK->BLGRK", attention_BGRLM, v_BMGK)
    return mixed_BLGRK.reshape(B, L, H, K)


class Attention(nn.Module):
    """Self-attention with one key-value head for every `num_heads / num_kv_heads`."""

    config: TransformerConfig
    partitioning: Partitioning

    @nn.compact
    def __call__(self, x_BLD: jax.Array, context: AttentionContext) -> jax.Array:
        config = self.config
        D, H, G, K = (
            config.embed_dim,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )

        def heads(name: str, count: int, axis: str) -> jax.Array:
            axes = ("embed", axis, "head_dim")
            weight_DHK = weight(self, name, (D, count, K), axes, fan_in=D)
            return project("BLD,DHK->BLHK", x_BLD, weight_DHK)

        q_BLHK = rotate(heads("query", H, "heads"), context.cos, context.sin)
        k_BMGK = rotate(heads("key", G, "kv_heads"), context.cos, context.sin)
        v_BMGK = heads("value", G, "kv_heads")
        mixed_BLHK = attend(q_BLHK, k_BMGK, v_BMGK, context.mask_BLM)
        mixed_BLHK = self.partitioning.constrain(
            mixed_BLHK, "batch", "length", "heads", "head_dim"
        )
        axes = ("heads", "head_dim", "embed")
        out_HKD = weight(self, "out", (H, K, D), axes, fan_in=H * K)
        return project("BLHK,HKD->BLD", mixed_BLHK, out_HKD)
