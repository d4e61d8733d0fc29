"""Chunks of tokens, on a mesh that shards the vocabulary.

Dimensions: B batch, L length, D embed, V vocabulary, N chunks, C tokens of a chunk.
Inside `shard_map`, B, L and V are the device's part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.unembedding import Unembedding


@dataclasses.dataclass(frozen=True)
class TokenChunks:
    """The split of a loss: tokens and vocabulary over devices, then tokens in chunks.

    Every device scans over chunks of its own tokens. Devices that hold different parts
    of the vocabulary need the same tokens; if their tokens differ, each chunk is first
    all-gathered among them.
    """

    partitioning: Partitioning
    chunk_tokens: int  # Tokens per chunk, over the devices that share tokens.

    @property
    def shards(self) -> VocabShards:
        """The sharding of the embedding and the vocabulary."""
        return VocabShards(self.partitioning)

    @property
    def tokens_spec(self) -> PartitionSpec:
        """The spec of arrays whose first dimensions are B and L."""
        return self.partitioning.spec("batch", "length")

    def student_specs(self, model: Any) -> Any:
        """Returns the specs of the student and of its gradient, as an `Unembedding`."""
        return model.replace(
            hidden_BLD=PartitionSpec(*self.tokens_spec, None),
            embedding_VD=self.shards.stored_spec,
        )

    def teacher_specs(self, model: Any) -> Any:
        """Returns the specs of a model without a gradient, whose embedding is gathered.

        None stands for no teacher.
        """
        if model is None:
            return None
        return self.student_specs(model).replace(embedding_VD=self.shards.used_spec)

    def gather_embedding(self, model: Unembedding) -> Unembedding:
        """Returns `model` with the device's part of V, in the compute dtype."""
        # Cast before the all-gather: bfloat16 moves half the bytes.
        embedding_VD = model.embedding_VD.astype(model.hidden_BLD.dtype)
        embedding_VD = self.shards.gather_embedding(embedding_VD)
        return dataclasses.replace(model, embedding_VD=embedding_VD)

    def scan(self, step: Callable[..., Any], carry: Any, tokens_BL: Any) -> Any:
        """Scans `step(carry, chunk) -> (carry, outputs)` over a device's tokens.

        Args:
          step: Takes and returns arrays whose first dimension is C, the device's own
            tokens of a chunk: `chunk_tokens` divided by the devices that share tokens.
          carry: The first carry.
          tokens_BL: A tree of arrays whose first dimensions are B and L. Zeros pad the
            last chunk.

        Returns:
          The last carry, and the outputs with B and L as their first dimensions.
        """
        rows, length = jax.tree.leaves(tokens_BL)[0].shape[:2]
        tokens = rows * length
        num_chunks, size = self._split(tokens)

        def split(x_BL):
            x = x_BL.reshape(tokens, *x_BL.shape[2:])
            added = [(0, num_chunks * size - tokens)] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x, added).reshape(num_chunks, size, *x.shape[1:])

        def join(x_NC):
            x = x_NC.reshape(num_chunks * size, *x_NC.shape[2:])
            return x[:tokens].reshape(rows, length, *x.shape[1:])

        carry, outputs = jax.lax.scan(step, carry, jax.tree.map(split, tokens_BL))
        return carry, jax.tree.map(join, outputs)

    def sizes(self, model: Unembedding) -> tuple[int, int]:
        """Returns the tokens and the vocabulary of a chunk's logits on a device.

        `model` has the shapes of the whole mesh.
        """
        rows, length = model.hidden_BLD.shape[:2]
        axes = ("batch", "length")
        devices = math.prod(self.partitioning.size(axis) for axis in axes)
        size = self._split(rows * length // devices)[1]
        vocab = model.embedding_VD.shape[0] // self.shards.num_shards
        return size * self.shards.num_sharing, vocab

    def _split(self, tokens: int) -> tuple[int, int]:
        """Returns the number of chunks of a device's tokens, and its tokens in each."""
        own_tokens = max(self.chunk_tokens // self.shards.num_sharing, 1)
        num_chunks = -(-tokens // own_tokens)
        return num_chunks, -(-tokens // num_chunks)

    def check(self, model: Unembedding, targets_BL: jax.Array) -> None:
        """Raises ValueError if shapes do not match or do not divide over the mesh."""
        if self.chunk_tokens < 1:
            raise ValueError(
                f"chunk_tokens must be at least 1, got {self.chunk_tokens}."
            )
        if model.hidden_BLD.shape[:2] != targets_BL.shape:
            raise ValueError(
                f"Hidden states have shape {model.hidden_BLD.shape[:2]} (rows, length) "
                f"and targets {targets_BL.shape}: they must agree."
            )
        for size, axis in zip(targets_BL.shape, ("batch", "length"), strict=True):
            self.shards.check_divides(size, axis)
        self.shards.check(model.embedding_VD)
