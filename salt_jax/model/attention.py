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
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.attention_kernels import cudnn, furthest_seen, splash
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import axes_of, project, rotary_angles, rotate, weight
from salt_jax.partitioning import Partitioning


@flax.struct.dataclass
class AttentionContext:
    """What the layers share: who may look at whom, and the rotary angles."""

    kernel: str = flax.struct.field(pytree_node=False)
    cos: jax.Array
    sin: jax.Array
    segments_BL: jax.Array
    # Splash reads how far each token sees, None for up to itself; others the mask.
    furthest_BL: jax.Array | None
    mask_BLM: jax.Array | None

    @classmethod
    def of(
        cls, batch: Batch, config: TransformerConfig, partitioning: Partitioning
    ) -> AttentionContext:
        """Returns the context of `batch`.

        Raises:
          ValueError: the attention that `config` names cannot be used.
        """
        segments_BL, prefix_BL = batch.segments_BL, batch.prefix_BL
        kernel = AttentionChoice.of(config, partitioning, segments_BL.shape[1]).name
        cos, sin = rotary_angles(batch.positions_BL, config.head_dim, config.rope_theta)
        furthest_BL = mask_BLM = None
        if kernel != "splash":
            mask_BLM = attention_mask(segments_BL, prefix_BL)
        elif prefix_BL is not None:
            furthest_BL = furthest_seen(segments_BL, prefix_BL)
        return cls(kernel, cos, sin, segments_BL, furthest_BL, mask_BLM)


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
    q_BLGRK = (q_BLHK * K**-0.5).reshape(B, L, k_BMGK.shape[2], -1, K)
    # Heads first, once for each factor: scores then come out as softmax reads them.
    mixed_BGRLK = _mix_heads(
        q_BLGRK.transpose(0, 2, 3, 1, 4),
        k_BMGK.swapaxes(1, 2),
        v_BMGK.swapaxes(1, 2),
        mask_BLM,
    )
    return mixed_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


@jax.custom_vjp
def _mix_heads(
    q_BGRLK: jax.Array, k_BGMK: jax.Array, v_BGMK: jax.Array, mask_BLM: jax.Array
) -> jax.Array:
    """Returns softmax(q k') v.

    The softmax is divided by its sum only when mixed, here and in the gradient: one
    pass less over its values, which are many, in each direction.
    """
    return _mix_heads_forward(q_BGRLK, k_BGMK, v_BGMK, mask_BLM)[0]


def _mix_heads_forward(q_BGRLK, k_BGMK, v_BGMK, mask_BLM):
    scores_BGRLM = _product("BGRLK,BGMK->BGRLM", q_BGRLK, k_BGMK)
    lowest = jnp.finfo(jnp.float32).min
    scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGRLM, lowest)
    # In float32: in bfloat16 a long sum drops its small terms.
    exp_BGRLM = jnp.exp(scores_BGRLM - jnp.max(scores_BGRLM, axis=-1, keepdims=True))
    sum_BGRL1 = jnp.sum(exp_BGRLM, axis=-1, keepdims=True)
    exp_BGRLM = exp_BGRLM.astype(v_BGMK.dtype)
    mixed_BGRLK = _product("BGRLM,BGMK->BGRLK", exp_BGRLM, v_BGMK) / sum_BGRL1
    mixed_BGRLK = mixed_BGRLK.astype(v_BGMK.dtype)
    return mixed_BGRLK, (q_BGRLK, k_BGMK, v_BGMK, exp_BGRLM, sum_BGRL1, mixed_BGRLK)


def _mix_heads_backward(saved, gradient_BGRLK):
    q_BGRLK, k_BGMK, v_BGMK, exp_BGRLM, sum_BGRL1, mixed_BGRLK = saved
    dtype = q_BGRLK.dtype
    scaled_BGRLK = gradient_BGRLK / sum_BGRL1
    # What the softmax takes from all scores of a row, for adding up to 1.
    shared_BGRL1 = jnp.sum(scaled_BGRLK * mixed_BGRLK, axis=-1, keepdims=True)
    scaled_BGRLK = scaled_BGRLK.astype(dtype)
    dexp_BGRLM = _product("BGRLK,BGMK->BGRLM", scaled_BGRLK, v_BGMK)
    dscores_BGRLM = (exp_BGRLM * (dexp_BGRLM - shared_BGRL1)).astype(dtype)
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
    def __call__(self, x_BLD: jax.Array, context: AttentionContext) -> jax.Array:
        config = self.config
        D, H, G, K = (
            config.embed_dim,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )

        def heads(name: str, count: int, letter: str) -> jax.Array:
            axes = axes_of(f"D{letter}K")
            weight_DHK = weight(self, name, (D, count, K), axes, fan_in=D)
            dimensions = f"BLD,D{letter}K->BL{letter}K"
            return project(self.partitioning, dimensions, x_BLD, weight_DHK)

        q_BLHK = rotate(heads("query", H, "H"), context.cos, context.sin)
        k_BMGK = rotate(heads("key", G, "G"), context.cos, context.sin)
        v_BMGK = heads("value", G, "G")
        mixed_BLHK = self._mix(q_BLHK, k_BMGK, v_BMGK, context)
        out_HKD = weight(self, "out", (H, K, D), axes_of("HKD"), fan_in=H * K)
        return project(self.partitioning, "BLHK,HKD->BLD", mixed_BLHK, out_HKD)

    def _mix(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
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
        if context.kernel == "splash":
            mixed_BLHK = splash(
                self.partitioning, *q_k_v, context.segments_BL, context.furthest_BL
            )
        elif context.kernel == "cudnn":
            assert context.mask_BLM is not None
            mixed_BLHK = cudnn(self.partitioning, *q_k_v, context.mask_BLM)
        else:
            assert context.mask_BLM is not None
            mixed_BLHK = attend(*q_k_v, context.mask_BLM)
        return whole(mixed_BLHK, "heads")
