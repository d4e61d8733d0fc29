"""Attention masks and rotary angles, computed once and shared by all layers.

Dimensions: B batch, L length, M attended length, K head_dim.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from salt_jax.batch import Batch
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.attention_kernels import furthest_seen
from salt_jax.model.cache import Cache
from salt_jax.model.config import TransformerConfig
from salt_jax.model.layers import rotary_angles

Angles = tuple[jax.Array, jax.Array]  # Cosines and sines, as `rotate` applies them.


@flax.struct.dataclass
class AttentionContext:
    """The kernel, masks and rotary angles that all layers share."""

    kernel: str = flax.struct.field(pytree_node=False)
    angles: Angles
    segments_BL: jax.Array
    # Splash only: the last position each token attends to; None: its own.
    furthest_BL: jax.Array | None
    mask_BLM: jax.Array | None  # Neither kernel: True where L attends to M.
    # Models with a sliding window only.
    near_1LM: jax.Array | None = None  # True where M is within the window of L.
    local_angles: Angles | None = None  # None: the same as `angles`.
    prefix_BL: jax.Array | None = None  # cuDNN only.

    @classmethod
    def of(
        cls,
        batch: Batch,
        config: TransformerConfig,
        partitioning: Partitioning,
        cache: Cache | None = None,
    ) -> AttentionContext:
        """Returns the context of `batch`.

        Args:
          batch: The tokens that attend.
          config: The model.
          partitioning: The mesh and the rules.
          cache: The cache, after it admitted `batch`; None: tokens attend only to
            those of `batch`.

        Raises:
          ValueError: the attention that `config` names cannot be used.
        """
        segments_BL, prefix_BL = batch.segments_BL, batch.prefix_BL
        if cache is None:
            length = segments_BL.shape[1]
            kernel = AttentionChoice.of(
                config, partitioning, length, has_prefix=prefix_BL is not None
            ).name
        else:  # Splash and cuDNN need as many queries as keys.
            kernel = "reference" if config.attention == "reference" else "xla"
        angles, local_angles = _angles(batch.positions_BL, config)
        furthest_BL = mask_BLM = near_1LM = None
        if kernel not in ("splash", "cudnn"):
            mask_BLM, near_1LM = _masks(batch, config, cache)
        elif kernel == "splash" and prefix_BL is not None:
            furthest_BL = furthest_seen(segments_BL, prefix_BL)
        return cls(
            kernel=kernel,
            angles=angles,
            segments_BL=segments_BL,
            furthest_BL=furthest_BL,
            mask_BLM=mask_BLM,
            near_1LM=near_1LM,
            local_angles=local_angles,
            prefix_BL=prefix_BL if kernel == "cudnn" else None,
        )

    def angles_of(self, is_global: jax.Array | bool) -> Angles:
        """Returns the cosines and sines of a global or local layer."""
        if self.local_angles is None:
            return self.angles
        (cos, sin), (local_cos, local_sin) = self.angles, self.local_angles
        return (
            jnp.where(is_global, cos, local_cos),
            jnp.where(is_global, sin, local_sin),
        )

    def mask_of(self, is_global: jax.Array | bool) -> jax.Array:
        """Returns the mask_BLM of a global or local layer, if a kernel reads one."""
        assert self.mask_BLM is not None
        if self.near_1LM is None:
            return self.mask_BLM
        return self.mask_BLM & (self.near_1LM | is_global)


def attention_mask(
    segments_BL: jax.Array, prefix_BL: jax.Array | None = None
) -> jax.Array:
    """Returns the mask_BLM of documents packed into rows.

    A token attends to earlier tokens of its own segment, to itself, and to every token
    of the segment where `prefix_BL` is True.
    """
    length = segments_BL.shape[1]
    visible_1LM = jnp.tril(jnp.ones((length, length), dtype=bool))[None]
    if prefix_BL is not None:
        visible_1LM = visible_1LM | prefix_BL[:, None, :]
    return visible_1LM & (segments_BL[:, :, None] == segments_BL[:, None, :])


def _masks(
    batch: Batch, config: TransformerConfig, cache: Cache | None
) -> tuple[jax.Array, jax.Array | None]:
    """Returns mask_BLM, and the window's near_1LM if the model has a window."""
    length = batch.segments_BL.shape[1]
    first: jax.Array | int = 0
    if cache is None:
        columns = length
        mask_BLM = attention_mask(batch.segments_BL, batch.prefix_BL)
    else:
        first, columns = cache.used - length, cache.segments_BM.shape[1]
        mask_BLM = _cached_mask(batch, cache)
    if config.sliding_window is None:
        return mask_BLM, None
    furthest_back_1L1 = _own_columns(first, length) - config.sliding_window
    return mask_BLM, jnp.arange(columns)[None, None] > furthest_back_1L1


def _cached_mask(batch: Batch, cache: Cache) -> jax.Array:
    """Returns the attention mask of `batch` over the columns of the cache."""
    length = batch.segments_BL.shape[1]
    first = cache.used - length
    column_11M = jnp.arange(cache.segments_BM.shape[1])[None, None]
    visible_BLM = column_11M <= _own_columns(first, length)
    if batch.prefix_BL is not None:
        prefix_BM = jnp.zeros(cache.segments_BM.shape, bool)
        prefix_BM = jax.lax.dynamic_update_slice(prefix_BM, batch.prefix_BL, (0, first))
        visible_BLM = visible_BLM | prefix_BM[:, None, :]
    return visible_BLM & (batch.segments_BL[:, :, None] == cache.segments_BM[:, None])


def _own_columns(first: jax.Array | int, length: int) -> jax.Array:
    return (first + jnp.arange(length))[None, :, None]


def _angles(
    positions_BL: jax.Array, config: TransformerConfig
) -> tuple[Angles, Angles | None]:
    """Returns the angles of global layers, and of local ones if they differ."""
    K, scaling = config.head_dim, config.rope_scaling
    angles = rotary_angles(positions_BL, K, config.rope_theta, scaling)
    if config.local_rope_theta is None:
        return angles, None
    return angles, rotary_angles(positions_BL, K, config.local_rope_theta)
