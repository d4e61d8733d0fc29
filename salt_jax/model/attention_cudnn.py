"""Flash attention for NVIDIA GPUs by cuDNN, over documents packed into rows.

cuDNN reads the segments of a batch one after another and never stores the scores. Its
causal mask and its segments say all but a bidirectional prefix, for which it is called
twice. A call reads a limited number of segments, so a loop calls it until all are read.

Dimensions: B batch, L length, H heads, G key-value heads, K head_dim, M segments per
row in one call, P all segments, padded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_kernels import ATTENDED, on_each_device
from salt_jax.model.cudnn_calls import FlashAttention, Segments

# The segments that a call reads, on average over the rows of a device. For each, it
# returns statistics of the length of a row.
SEGMENTS_PER_ROW = 8


def cudnn(
    partitioning: Partitioning,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    segments_BL: jax.Array,
    prefix_BL: jax.Array | None,
    *,
    scale: float | None = None,
    window: int | None = None,
    is_global: jax.Array | bool = True,
) -> jax.Array:
    """Returns the attended values_BLHK, by cuDNN's flash attention.

    Args:
      partitioning: The mesh and the rules of the arrays.
      q_BLHK: Queries; head h reads key-value head h // (H // G).
      k_BLGK: Keys.
      v_BLGK: Values.
      segments_BL: A token attends only to tokens of its segment. A segment is
        contiguous.
      prefix_BL: True in the prefix, with which a segment begins; None: none has one.
      scale: Multiplies the queries; K ** -0.5 by default.
      window: In a local layer a token attends to as many tokens, itself included.
      is_global: Whether the layer ignores `window`; a scan gives a traced one.

    Raises:
      ValueError: a prefix and a window are both given.
    """
    if prefix_BL is not None and window is not None:
        raise ValueError(f"cuDNN has no window of {window} in a bidirectional prefix.")
    scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
    rows = (segments_BL,) if prefix_BL is None else (segments_BL, prefix_BL)

    def attend(window: int | None) -> Callable[..., jax.Array]:
        on_rows = functools.partial(_attend_rows, scale, window)
        return functools.partial(on_each_device, partitioning, on_rows)

    arrays = (q_BLHK, k_BLGK, v_BLGK, *rows)
    if window is None:
        return attend(None)(*arrays)
    return jax.lax.cond(is_global, attend(None), attend(window), *arrays)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Pieces:
    """The segments and the prefixes of the rows of a device."""

    number_BL: jax.Array  # Of each token's segment, counted over all rows.
    begins_P: jax.Array  # The first token of each segment, counted over all rows.
    prefix_BL: jax.Array | None

    @classmethod
    def of(cls, segments_BL: jax.Array, prefix_BL: jax.Array | None) -> _Pieces:
        """Returns each run of equal `segments_BL` as a segment."""
        B, L = segments_BL.shape
        is_first_BL = jnp.ones((B, L), bool)
        is_first_BL = is_first_BL.at[:, 1:].set(
            segments_BL[:, 1:] != segments_BL[:, :-1]
        )
        number_N = jnp.cumsum(is_first_BL.ravel(), dtype=jnp.int32) - 1
        # Every token may be a segment; the last call may read beyond them.
        room = B * L + B * _per_row(L) + 1
        (begins_P,) = jnp.nonzero(is_first_BL.ravel(), size=room, fill_value=B * L)
        return cls(number_N.reshape(B, L), begins_P.astype(jnp.int32), prefix_BL)

    @property
    def num_calls(self) -> jax.Array:
        """The calls that read all segments."""
        return self.number_BL[-1, -1] // self._per_call + 1

    @property
    def _per_call(self) -> int:
        B, L = self.number_BL.shape
        return B * _per_row(L)

    def whole(self, i: Any) -> Segments:
        """Returns the segments of call `i`."""
        return self._segments(i, jnp.diff(self.begins_P))

    def prefixes(self, i: Any) -> Segments:
        """Returns the prefixes of the segments of call `i`."""
        assert self.prefix_BL is not None
        before_N = jnp.cumsum(self.prefix_BL.ravel(), dtype=jnp.int32)
        before_N = jnp.concatenate([jnp.zeros(1, jnp.int32), before_N])
        return self._segments(i, jnp.diff(before_N[self.begins_P]))

    def _segments(self, i: Any, lengths_P: jax.Array) -> Segments:
        (B, L), M = self.number_BL.shape, _per_row(self.number_BL.shape[1])
        first, count = i * self._per_call, self._per_call
        lengths = jax.lax.dynamic_slice_in_dim(lengths_P, first, count)
        begins = jax.lax.dynamic_slice_in_dim(self.begins_P, first, count + 1)
        # XLA takes M + 1 offsets for each row, of which cuDNN reads B x M + 1.
        begins = jnp.concatenate([begins, jnp.full(B - 1, B * L, jnp.int32)])
        return Segments(lengths.reshape(B, M), begins.reshape(B, M + 1))

    def choose(self, i: Any, new: jax.Array, old: jax.Array) -> jax.Array:
        """Returns `new` at the tokens of call `i`, `old` elsewhere."""
        is_own_BL = self.number_BL // self._per_call == i
        return jnp.where(is_own_BL[..., None, None], new, old)

    def split(self, in_prefix: Any, elsewhere: Any) -> jax.Array:
        """Returns the first at tokens of prefixes, the second elsewhere."""
        assert self.prefix_BL is not None
        return jnp.where(self.prefix_BL[..., None, None], in_prefix, elsewhere)


def _per_row(length: int) -> int:
    return max(2, min(SEGMENTS_PER_ROW, length))  # XLA takes 1 for rows not packed.


@dataclasses.dataclass(frozen=True)
class _Attention:
    """Attention of packed rows, by one or two calls for some of their segments."""

    causal: FlashAttention
    bidirectional: FlashAttention

    def forward(self, q_k_v, pieces, i, *, with_statistics):
        """Returns the output of call `i`, and statistics of the two."""
        done = self.causal.forward(
            q_k_v, pieces.whole(i), with_statistics=with_statistics
        )
        if pieces.prefix_BL is None:
            return done[0], done[1:]
        # What a prefix sees is itself: it begins its segment.
        within = self.bidirectional.forward(
            q_k_v, pieces.prefixes(i), with_statistics=with_statistics
        )
        return pieces.split(within[0], done[0]), [*done[1:], *within[1:]]

    def backward(self, q_k_v, pieces, i, statistics, out_BLHK, gradient_BLHK):
        """Returns the gradients of queries, keys and values from call `i`."""
        if pieces.prefix_BL is None:
            return self.causal.backward(
                q_k_v, pieces.whole(i), statistics[0], out_BLHK, gradient_BLHK
            )
        after_BLHK = pieces.split(jnp.zeros_like(gradient_BLHK), gradient_BLHK)
        dq_BLHK, *dkv = self.causal.backward(
            q_k_v, pieces.whole(i), statistics[0], out_BLHK, after_BLHK
        )
        dq_within_BLHK, *dkv_within = self.bidirectional.backward(
            q_k_v, pieces.prefixes(i), statistics[1], out_BLHK, gradient_BLHK
        )
        dkv = [x + pieces.split(y, 0) for x, y in zip(dkv, dkv_within, strict=True)]
        return [pieces.split(dq_within_BLHK, dq_BLHK), *dkv]


def _attend_rows(
    scale: float,
    window: int | None,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    segments_BL: jax.Array,
    prefix_BL: jax.Array | None = None,
) -> jax.Array:
    attention = _Attention(
        FlashAttention(scale, is_causal=True, window=window),
        FlashAttention(scale, is_causal=False),
    )
    pieces = _Pieces.of(segments_BL, prefix_BL)
    return _attend(attention, (q_BLHK, k_BLGK, v_BLGK), pieces)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(attention, q_k_v, pieces):
    """Returns the attended values_BLHK."""
    return _attend_to_all(attention, q_k_v, pieces, with_statistics=False)[0]


def _attend_to_all(attention, q_k_v, pieces, *, with_statistics):
    def more(i, out_BLHK):
        new_BLHK, _ = attention.forward(q_k_v, pieces, i, with_statistics=False)
        return pieces.choose(i, new_BLHK, out_BLHK)

    out_BLHK, statistics = attention.forward(
        q_k_v, pieces, 0, with_statistics=with_statistics
    )
    return jax.lax.fori_loop(1, pieces.num_calls, more, out_BLHK), statistics


def _attend_forward(attention, q_k_v, pieces):
    done = _attend_to_all(attention, q_k_v, pieces, with_statistics=True)
    out_BLHK, statistics = jax.tree.map(lambda x: checkpoint_name(x, ATTENDED), done)
    return out_BLHK, (q_k_v, pieces, out_BLHK, statistics)


def _attend_backward(attention, saved, gradient_BLHK):
    q_k_v, pieces, out_BLHK, statistics = saved

    def more(i, gradients):
        # Only the statistics of call 0 are saved.
        _, statistics = attention.forward(q_k_v, pieces, i, with_statistics=True)
        new = attention.backward(q_k_v, pieces, i, statistics, out_BLHK, gradient_BLHK)
        return jax.tree.map(functools.partial(pieces.choose, i), new, gradients)

    gradients = attention.backward(
        q_k_v, pieces, 0, statistics, out_BLHK, gradient_BLHK
    )
    gradients = jax.lax.fori_loop(1, pieces.num_calls, more, gradients)
    return tuple(gradients), None


_attend.defvjp(_attend_forward, _attend_backward)
