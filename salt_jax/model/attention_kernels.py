"""Flash attention for TPUs: a kernel that never stores the scores.

Dimensions: B batch, L length, M attended length, H heads, G key-value heads,
K head_dim. L equals M, and each device holds the whole length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
    splash_attention_mask_info,
)

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.mesh.shard_maps import on_devices

_Kernel = splash_attention_kernel.SplashAttentionKernel

ATTENDED = "attended"  # The name of the kernel's outputs in a remat policy.
LANES = 128  # The lanes of a TPU's vector unit; block sizes are multiples of it.
# The widest block whose backward pass was seen to fit the memory of a TPU core. Of the
# blocks that fit, it compiled to the least memory.
WIDEST_BLOCK = 640
LONGEST_WINDOWED = 1 << 16  # Two positions are packed into one int32.


def furthest_seen(segments_BL: jax.Array, prefix_BL: jax.Array) -> jax.Array:
    """Returns the last position that each token may attend to, int32 [B, L].

    It is the token's own position, or the end of the prefix for a token inside one. A
    prefix begins its segment, so everything up to that position is visible.
    """
    length = segments_BL.shape[1]
    position_1L = jnp.arange(length, dtype=jnp.int32)[None]
    is_own_prefix_BLM = prefix_BL[:, None, :] & (
        segments_BL[:, :, None] == segments_BL[:, None, :]
    )
    last_BL = jnp.max(jnp.where(is_own_prefix_BLM, position_1L[:, None], 0), axis=-1)
    return jnp.maximum(position_1L, last_BL)


def splash(
    partitioning: Partitioning,
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    segments_BL: jax.Array,
    furthest_BL: jax.Array | None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    is_global: jax.Array | bool = True,
    widest_block: int = WIDEST_BLOCK,
) -> jax.Array:
    """Returns the attended values_BLHK, by JAX's splash attention for TPUs.

    With a window there are two kernels, and a layer runs one of them. The kernel of
    local layers leaves out the blocks that are behind every window.

    Args:
      partitioning: The mesh and the rules of the arrays.
      q_BLHK: Queries; head h reads key-value head h // (H // G).
      k_BMGK: Keys.
      v_BMGK: Values.
      segments_BL: A token attends only to tokens of its segment.
      furthest_BL: The last position that each token attends to; None: its own.
      scale: Multiplies the queries; K ** -0.5 by default.
      softcap: Scores s become softcap * tanh(s / softcap); None leaves them alone.
      window: A token attends to this many of the last tokens, itself included; None: to
        all of them. It does not limit what a token sees of its prefix ahead of it.
      is_global: Whether this layer ignores `window`; a scan gives a traced one.
      widest_block: The limit of a block's queries and keys.
    """
    rows = (segments_BL,) if furthest_BL is None else (segments_BL, furthest_BL)

    def attend(window: int | None) -> Callable[..., jax.Array]:
        on_rows = functools.partial(_splash_rows, scale, softcap, widest_block, window)
        return functools.partial(on_each_device, partitioning, on_rows)

    arrays = (q_BLHK, k_BMGK, v_BMGK, *rows)
    if window is None:
        return attend(None)(*arrays)
    return jax.lax.cond(is_global, attend(None), attend(window), *arrays)


def on_each_device(
    partitioning: Partitioning,
    attend: Callable[..., jax.Array],
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *rows: jax.Array,
) -> jax.Array:
    """Calls `attend` on each device, with that device's rows and heads.

    XLA partitions its own operations over a mesh, but not a kernel.
    """
    axes = partitioning.compute_axes("heads")
    own = q_BLHK.shape[2] // partitioning.compute_size("heads")
    shared = q_BLHK.shape[2] // k_BMGK.shape[2]
    is_split_alike = partitioning.compute_axes("kv_heads") == axes

    def on_device(q_BLHK, k_BMGK, v_BMGK, *rows):
        if axes and not is_split_alike:
            first = jax.lax.axis_index(axes) * own // shared
            k_BMGK, v_BMGK = (
                jax.lax.dynamic_slice_in_dim(x, first, max(own // shared, 1), axis=2)
                for x in (k_BMGK, v_BMGK)
            )
        return attend(q_BLHK, k_BMGK, v_BMGK, *rows)

    q_spec = partitioning.compute_spec("batch", None, "heads", None)
    kv_spec = partitioning.compute_spec(
        "batch", None, "kv_heads" if is_split_alike else None, None
    )
    return on_devices(
        partitioning,
        on_device,
        in_specs=(q_spec, kv_spec, kv_spec, *[partitioning.spec("batch")] * len(rows)),
        out_specs=q_spec,
    )(q_BLHK, k_BMGK, v_BMGK, *rows)


def _splash_rows(
    scale: float | None,
    softcap: float | None,
    widest_block: int,
    window: int | None,
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    segments_BL: jax.Array,
    furthest_BL: jax.Array | None = None,
) -> jax.Array:
    L, H, K = q_BLHK.shape[1:]
    # A prefix may be seen ahead of a token, so that no block ahead is left out.
    ahead = 0 if furthest_BL is None else None
    kernel = _kernel(_mask(L, window, ahead), H, softcap, widest_block)
    scale = K**-0.5 if scale is None else scale

    def row(q_HLK, k_GMK, v_GMK, segments_L, furthest_L):
        own = kernel if furthest_L is None else _up_to(furthest_L, kernel, window)
        segments = splash_attention.SegmentIds(segments_L, segments_L)
        return own(q_HLK, k_GMK, v_GMK, segments)

    q_BHLK, k_BGMK, v_BGMK = (
        x.swapaxes(1, 2) for x in (q_BLHK * scale, k_BMGK, v_BMGK)
    )
    mixed_BHLK = jax.vmap(row)(q_BHLK, k_BGMK, v_BGMK, segments_BL, furthest_BL)
    return mixed_BHLK.swapaxes(1, 2)


def _mask(length: int, window: int | None, ahead: int | None) -> Any:
    """Returns the mask of the keys that are within `window`, up to `ahead` of a token.

    For either None is no limit.
    """
    shape = (length, length)
    if window is None:
        return splash_attention_mask.CausalMask(shape)
    return splash_attention_mask.LocalMask(shape, (window - 1, ahead), offset=0)


def _kernel(
    mask: Any, num_heads: int, softcap: float | None, widest_block: int
) -> _Kernel:
    """Returns the kernel that leaves out the blocks in which `mask` shows nothing."""
    sizes = range(LANES, widest_block + 1, LANES)
    block = max(size for size in sizes if mask.shape[0] % size == 0)
    return splash_attention.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([mask] * num_heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
        ),
        residual_checkpoint_name=ATTENDED,
        attn_logits_soft_cap=softcap,
    )


def _up_to(furthest_L: Any, kernel: _Kernel, window: int | None) -> _Kernel:
    """Returns a kernel that masks keys after `furthest_L`, and those behind `window`.

    Without a window it visits all blocks, and masks keys as `kernel` does, which is
    the causal one: by comparison with a position.
    """
    if window is None:
        everywhere = splash_attention_mask_info.MaskInfo(
            None, None, None, None, q_sequence=furthest_L
        )
        return _Kernel(everywhere, None, everywhere, **kernel.kwargs)
    length = furthest_L.shape[0]
    both_L = (furthest_L << 16) | jnp.arange(length, dtype=jnp.int32)
    forward, _, backward = kernel.tree_flatten()[0]
    return _Kernel(
        forward._replace(q_sequence=both_L),
        None,
        backward._replace(q_sequence=both_L),
        **kernel.kwargs | {"mask_function": _Seen(window)},
    )


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The mask of queries that each carry their position and the furthest they see."""

    window: int

    def __call__(self, both: jax.Array, key: jax.Array) -> jax.Array:
        furthest = jax.lax.shift_right_logical(both, 16)
        position = both & (LONGEST_WINDOWED - 1)
        return (position - self.window < key) & (key <= furthest)
