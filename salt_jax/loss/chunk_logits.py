"""The logits of a chunk: how they lie in memory, and what is read from them.

Dimensions: B batch, L length, D embed, V vocabulary, C tokens of a chunk, 1 a broadcast
dimension. Inside `shard_map`, V is the device's part of the vocabulary.

Names have the order of tokens first, such as logits_CV and max_C1. With words first the
same arrays are [V, C] and [1, C].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.unembedding import Unembedding

# Smaller logits of a chunk have tokens first: what was published was computed so.
MOST_TOKENS_FIRST = 2**23  # Bytes.
OWN_CACHE = 2**21  # Bytes of the logits that a CPU sums at once.
LEAST_BLOCK = 64  # Words.
_LOW = -1e30


@dataclasses.dataclass(frozen=True)
class ChunkLogits:
    """The order of the dimensions of logits, and the sums over their words.

    Words come first on CPUs. There the matrix products read a column of the logits as
    often as a row, and with tokens first a column has one number every V: where V is a
    power of two, all of them share one set of a cache.
    """

    shards: VocabShards
    words_first: bool = False
    block: int | None = None  # Words that are summed at once; None: all.

    @classmethod
    def of(cls, chunks: TokenChunks, model: Unembedding) -> ChunkLogits:
        """Returns those of a model, whose arrays have the shapes of the whole mesh."""
        size_C, size_V = chunks.sizes(model)
        platform = chunks.partitioning.mesh.devices.flat[0].platform
        if platform != "cpu" or 4 * size_C * size_V <= MOST_TOKENS_FIRST:
            return cls(chunks.shards)
        most = OWN_CACHE // (4 * size_C)
        divisors = (n for n in range(most, LEAST_BLOCK - 1, -1) if size_V % n == 0)
        return cls(chunks.shards, words_first=True, block=next(divisors, None))

    @property
    def axis(self) -> int:
        """The dimension of V."""
        return 0 if self.words_first else 1

    def column(self, x_C: jax.Array) -> jax.Array:
        """Returns x_C1."""
        return jnp.expand_dims(x_C, self.axis)

    def squeezed(self, values: Any) -> Any:
        """Returns a tree of values_C of one of values_C1."""
        return jax.tree.map(lambda x_C1: jnp.squeeze(x_C1, self.axis), values)

    def logits(self, model: Unembedding) -> jax.Array:
        """Returns float32 logits_CV of a model whose hidden states are [C, D]."""
        if not self.words_first:
            hidden_1CD = model.hidden_BLD[None]
            return dataclasses.replace(model, hidden_BLD=hidden_1CD).logits()[0]
        hidden_CD = model.hidden_BLD
        logits_VC = jax.lax.dot_general(
            model.embedding_VD.astype(hidden_CD.dtype),
            hidden_CD,
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return model.softcapped(logits_VC)

    def products(
        self, dlogits_CV: jax.Array, hidden_CD: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the gradients by the hidden states, [C, D], and the embedding."""
        if self.words_first:
            return dlogits_CV.T @ embedding_VD, dlogits_CV @ hidden_CD
        return dlogits_CV @ embedding_VD, dlogits_CV.T @ hidden_CD

    def summed(
        self, sums: Callable[..., dict[str, jax.Array]], logits: tuple[Any, ...]
    ) -> dict[str, jax.Array]:
        """Returns `sums(first, *logits)`: sums_C1 over the device's words by name.

        XLA for CPUs reads the logits again for each sum, and writes down what is
        summed. A block of words stays in a core's cache meanwhile.

        Args:
          sums: Takes the first id of a block of words, and the logits of the block.
          logits: Arrays of logits_CV, or None.
        """
        block = self.block
        if block is None:
            return sums(0, *logits)
        split = lambda x: x.reshape(-1, block, *x.shape[1:])
        blocks = jax.tree.map(split, logits)
        firsts = block * jnp.arange(len(jax.tree.leaves(blocks)[0]))
        parts = jax.lax.map(lambda part: sums(part[0], *part[1]), (firsts, blocks))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)

    def end(self, num_real: int, size_V: int) -> jax.Array:
        """Returns the first id of padding, relative to the device's `size_V` words."""
        return self.shards.local(jnp.int32(num_real), size_V)

    def sum(self, x_CV: jax.Array) -> jax.Array:
        """Returns the sum over the device's words, [C, 1]."""
        return jnp.sum(x_CV, axis=self.axis, keepdims=True)

    def largest(self, logits_CV: jax.Array) -> jax.Array:
        """Returns each token's largest logit over the whole vocabulary, [C, 1]."""
        return self.shards.largest(jnp.max(logits_CV, axis=self.axis, keepdims=True))

    def largest_and_target(
        self, logits_CV: jax.Array, targets_C: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns each token's largest logit and its target's, in one exchange.

        A target outside the vocabulary has -inf.
        """
        axis = self.axis
        x_C1 = self._at_targets(logits_CV, targets_C, -jnp.inf)
        max_C1 = jnp.max(logits_CV, axis=axis, keepdims=True)
        both = self.shards.largest(jnp.concatenate([max_C1, x_C1], axis=axis))
        largest_C1, target_C1 = jnp.split(both, 2, axis=axis)
        return largest_C1, target_C1

    def without_padding(
        self, logits_CV: jax.Array, end: jax.Array, first: Any = 0
    ) -> jax.Array:
        """Returns the logits, those of padding so low that exp gives 0.

        They are finite, so that 0 times them is 0.

        Args:
          logits_CV: The device's logits, or a block of them.
          end: What `end` returns.
          first: Where among the device's words the logits begin.
        """
        ids_CV = jax.lax.broadcasted_iota(jnp.int32, logits_CV.shape, self.axis)
        return jnp.where(ids_CV + first < end, logits_CV, _LOW)

    def is_target(self, like_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns a bool [C, V], True at the target if this device has it."""
        axis = self.axis
        ids_CV = jax.lax.broadcasted_iota(targets_C.dtype, like_CV.shape, axis)
        return ids_CV == self.column(self.shards.local(targets_C, like_CV.shape[axis]))

    def target_share(self, x_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns x at the targets, [C, 1]; 0 for targets that another device has.

        A target outside the vocabulary gives NaN, and so does its sum over devices.
        """
        whole = x_CV.shape[self.axis] * self.shards.num_shards
        x_C1 = self._at_targets(x_CV, targets_C, 0.0)
        is_token_C1 = self.column((targets_C >= 0) & (targets_C < whole))
        return jnp.where(is_token_C1, x_C1, jnp.nan)

    def _at_targets(self, x_CV, targets_C, otherwise):
        """Returns x at the targets, [C, 1], or another number without the target."""
        size = x_CV.shape[self.axis]
        local_C1 = self.column(self.shards.local(targets_C, size))
        x_C1 = jnp.take_along_axis(
            x_CV, jnp.clip(local_C1, 0, size - 1), axis=self.axis
        )
        is_here_C1 = (local_C1 >= 0) & (local_C1 < size)
        return jnp.where(is_here_C1, x_C1, otherwise)
