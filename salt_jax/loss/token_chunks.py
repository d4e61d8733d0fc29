"""Reading unembeddings in chunks of tokens, on a mesh, with the vocabulary split.

Dimensions: B batch, L length, D embed, V vocabulary, N chunks, C tokens of a chunk,
1 a broadcast dimension. Inside a device's part, B, L and V are its shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.unembedding import Unembedding


@flax.struct.dataclass
class TokenStatistics:
    """How a model met each target; sharded as the targets are."""

    ce_BL: jax.Array  # float32, nats.
    rank_BL: jax.Array  # int32, how many logits are greater than the target's.
    # float32, nats; of the model's own distribution. None where nobody asks.
    entropy_BL: jax.Array | None


@dataclasses.dataclass(frozen=True)
class TokenChunks:
    """How a loss is cut: tokens over devices, then in chunks; vocabulary over devices.

    Every device scans over chunks of its own tokens. Devices that split the vocabulary
    read the same tokens: if each has tokens of its own, chunks are shared first.
    """

    partitioning: Partitioning
    chunk_tokens: int  # The most tokens of which one device holds logits.

    @property
    def shards(self) -> VocabShards:
        """How the embedding and the vocabulary are split."""
        return VocabShards(self.partitioning)

    @property
    def tokens_spec(self) -> PartitionSpec:
        """How arrays that begin with B and L are split."""
        return self.partitioning.spec("batch", "length")

    def student_specs(self, model: Any) -> Any:
        """Returns how the student, and the gradient of it, enter and leave devices.

        The specs are in an `Unembedding`, in place of its arrays.
        """
        return model.replace(
            hidden_BLD=PartitionSpec(*self.tokens_spec, None),
            embedding_VD=self.shards.stored_spec,
        )

    def teacher_specs(self, model: Any) -> Any:
        """Returns how a model without gradient enters devices: gathered already."""
        if model is None:
            return None
        return self.student_specs(model).replace(embedding_VD=self.shards.used_spec)

    def gather_embedding(self, model: Unembedding) -> Unembedding:
        """Returns `model` with a device's part of V, in the compute dtype."""
        # Cast first: what moves between devices is then half as large in bfloat16.
        embedding_VD = model.embedding_VD.astype(model.hidden_BLD.dtype)
        embedding_VD = self.shards.gather_embedding(embedding_VD)
        return dataclasses.replace(model, embedding_VD=embedding_VD)

    def scan(self, step: Callable[..., Any], carry: Any, tokens_BL: Any) -> Any:
        """Applies `step(carry, chunk) -> (carry, outputs)` to a device's tokens.

        Args:
          step: Reads and returns arrays that begin with C, a device's own tokens. All
            that share theirs have at most `chunk_tokens`.
          carry: What the first step is given.
          tokens_BL: A tree of arrays that begin with B and L. The chunks are made
            equal by adding zeros to the end.

        Returns:
          The last carry, and the outputs of all steps as arrays that begin with B, L.
        """
        rows, length = jax.tree.leaves(tokens_BL)[0].shape[:2]
        tokens = rows * length
        own_tokens = max(self.chunk_tokens // self.shards.num_sharing, 1)
        num_chunks = -(-tokens // own_tokens)
        size = -(-tokens // num_chunks)

        def split(x_BL):
            x = x_BL.reshape(tokens, *x_BL.shape[2:])
            added = [(0, num_chunks * size - tokens)] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x, added).reshape(num_chunks, size, *x.shape[1:])

        def join(x_NC):
            x = x_NC.reshape(num_chunks * size, *x_NC.shape[2:])
            return x[:tokens].reshape(rows, length, *x.shape[1:])

        carry, outputs = jax.lax.scan(step, carry, jax.tree.map(split, tokens_BL))
        return carry, jax.tree.map(join, outputs)

    def logits(self, model: Unembedding, hidden_CD: jax.Array) -> jax.Array:
        """Returns the float32 logits_CV of a chunk."""
        return dataclasses.replace(model, hidden_BLD=hidden_CD[None]).logits()[0]

    def largest(self, logits_CV: jax.Array) -> jax.Array:
        """Returns the largest logit of each token over the whole vocabulary, as C1."""
        return self.shards.largest(jnp.max(logits_CV, axis=-1, keepdims=True))

    def is_target(self, like_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns where the target is, which is nowhere if another device has it."""
        ids_CV = jax.lax.broadcasted_iota(targets_C.dtype, like_CV.shape, 1)
        return ids_CV == self.shards.local(targets_C, like_CV.shape[1])[:, None]

    def target_share(self, x_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns x at the targets as x_C1, zero for those that another device has.

        A target that no device has gives NaN, which a sum over devices keeps.
        """
        size = x_CV.shape[1]
        whole = size * self.shards.num_shards
        local_C1 = self.shards.local(targets_C, size)[:, None]
        x_C1 = jnp.take_along_axis(x_CV, jnp.clip(local_C1, 0, size - 1), axis=1)
        is_token_C1 = ((targets_C >= 0) & (targets_C < whole))[:, None]
        x_C1 = jnp.where((local_C1 >= 0) & (local_C1 < size), x_C1, 0.0)
        return jnp.where(is_token_C1, x_C1, jnp.nan)

    def check(self, model: Unembedding, targets_BL: jax.Array) -> None:
        """Raises ValueError if `model` cannot be read in these chunks on this mesh."""
        if self.chunk_tokens < 1:
            raise ValueError(
                f"chunk_tokens must be at least 1, got {self.chunk_tokens}."
            )
        if model.hidden_BLD.shape[:2] != targets_BL.shape:
            raise ValueError(
                f"There are hidden states for {model.hidden_BLD.shape[:2]} tokens, "
                f"rows by length, and targets for {targets_BL.shape}; they must agree."
            )
        for size, axis in zip(targets_BL.shape, ("batch", "length"), strict=True):
            self.shards.check_divides(size, axis)
        self.shards.check(model.embedding_VD)


def token_statistics(
    chunks: TokenChunks, model: Unembedding, targets_BL: jax.Array
) -> TokenStatistics:
    """Returns what `model` made of each target."""

    def body(model, targets_BL):
        model = chunks.gather_embedding(model)

        def step(_, chunk):
            hidden_CD, targets_C = chunks.shards.share(chunk)
            logits_CV = chunks.logits(model, hidden_CD)
            max_C1 = chunks.largest(logits_CV)
            sum_C1 = _sum(jnp.exp(logits_CV - max_C1))
            # Both sums in one loop, as XLA would make them, take a CPU 3 times as long.
            shifted_CV = logits_CV - jax.lax.optimization_barrier(max_C1)
            dot_C1 = _sum(jnp.exp(shifted_CV) * shifted_CV)
            share_C1 = chunks.target_share(logits_CV, targets_C)
            sums = (sum_C1, dot_C1, share_C1)
            sum_C1, dot_C1, target_C1 = chunks.shards.sum(sums)
            above_C1 = _sum((logits_CV > target_C1).astype(jnp.int32))
            rank_C1 = chunks.shards.sum(above_C1)
            ce_C1 = jnp.log(sum_C1) + (max_C1 - target_C1)
            entropy_C1 = jnp.log(sum_C1) - dot_C1 / sum_C1
            read = TokenStatistics(ce_C1[:, 0], rank_C1[:, 0], entropy_C1[:, 0])
            return None, chunks.shards.own(read)

        return chunks.scan(step, None, (model.hidden_BLD, targets_BL))[1]

    tokens = chunks.tokens_spec
    specs = chunks.student_specs(model), tokens
    run = chunks.shards.on_devices(body, specs, tokens)
    return run(model, targets_BL)


def _sum(x_CV: jax.Array) -> jax.Array:
    return jnp.sum(x_CV, axis=-1, keepdims=True)
