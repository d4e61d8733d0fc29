"""Self-attention over packed sequences: projections around one of the kernels.

Dimensions: B batch, L length, M attended length, D embed, H heads, G key-value heads,
K head_dim.
"""

from __future__ import annotations

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.attention_cudnn import cudnn
from salt_jax.model.attention_cudnn_bias import cudnn_bias
from salt_jax.model.attention_kernels import splash
from salt_jax.model.attention_reference import reference
from salt_jax.model.attention_xla import xla
from salt_jax.model.cache import Cache
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import RMSNorm, add_bias, axes_of, project, rotate, weight

PROJECTED = "projected"  # The name of queries, keys and values in a remat policy.


class Attention(nn.Module):
    """Grouped-query self-attention (Ainslie et al. 2023, arXiv 2305.13245).

    Each key-value head is shared by num_heads / num_kv_heads query heads.
    """

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
        """Returns the output of the layer, and the cache with the keys and values of x.

        Args:
          x_BLD: The normed input.
          context: Masks, angles and the kernel, shared by all layers.
          cache: Keys and values of earlier tokens; None reads no others.
          layer: The index of this layer; needed with a cache or a sliding window.
        """
        config = self.config
        D, H, G, K = (
            config.embed_dim,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        is_global: jax.Array | bool = True
        if config.sliding_window is not None:
            assert layer is not None
            is_global = (layer + 1) % config.global_every == 0
        cos, sin = context.angles_of(is_global)

        def heads(name: str, count: int, letter: str) -> jax.Array:
            axes = axes_of(f"D{letter}K")
            shape, scale = (D, count, K), config.init_scale
            weight_DHK = weight(
                self, name, shape, axes, summed=axes_of("D"), scale=scale
            )
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
        q_BLHK, k_BMGK, v_BMGK = (
            checkpoint_name(x, PROJECTED) for x in (q_BLHK, k_BMGK, v_BMGK)
        )
        if cache is not None:
            assert layer is not None
            cache = cache.put(layer, k_BMGK, v_BMGK)
            k_BMGK, v_BMGK = cache.read(layer, config.dtype)
        mixed_BLHK = self._mix(q_BLHK, k_BMGK, v_BMGK, context, is_global)
        shape, axes, summed = (H, K, D), axes_of("HKD"), axes_of("HK")
        scale = config.output_init_scale
        out_HKD = weight(self, "out", shape, axes, summed=summed, scale=scale)
        return project(self.partitioning, "BLHK,HKD->BLD", mixed_BLHK, out_HKD), cache

    def _mix(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        context: AttentionContext,
        is_global: jax.Array | bool,
    ) -> jax.Array:
        """Returns the attended values_BLHK, computed by the kernel of `context`.

        Each device holds the whole length, whatever the rule for "length" says: a token
        may attend to any other.
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
                window=self.config.sliding_window,
                is_global=is_global,
            )
        elif context.kernel == "cudnn":
            mixed_BLHK = cudnn(
                self.partitioning,
                *q_k_v,
                context.segments_BL,
                context.prefix_BL,
                scale=scale,
                window=self.config.sliding_window,
                is_global=is_global,
            )
        elif context.kernel == "cudnn_bias":
            mask_BLM = context.mask_of(is_global)
            mixed_BLHK = cudnn_bias(self.partitioning, *q_k_v, mask_BLM, scale=scale)
        else:
            mask_BLM = context.mask_of(is_global)
            attend = reference if context.kernel == "reference" else xla
            mixed_BLHK = attend(*q_k_v, mask_BLM, scale=scale, softcap=softcap)
        return whole(mixed_BLHK, "heads")
