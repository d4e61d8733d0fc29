"""Reading unembeddings in chunks of tokens, on a mesh, with the vocabulary split.

Dimensions: B batch, L length, D embed, V vocabulary, N chunks, C tokens of a chunk,
1 a broadcast dimension. Inside a device's part, B, L and V are its shares.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from salt_jax.model.unembedding import Unembedding
from salt_jax.partitioning import Partitioning


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

    Every device scans over chunks of its own tokens. The devices along
    `vocab_axes` hold the same tokens, and each a part of every logit vector.
    """

    partitioning: Partitioning
    chunk_tokens: int  # The most tokens of which one device holds logits.

    @property
    def tokens_spec(self) -> PartitionSpec:
        """How arrays that begin with B and L are split."""
        return self.partitioning.spec("batch", "length")

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices hold different tokens."""
        return self._mesh_axes("batch") + self._mesh_axes("length")

    @property
    def vocab_axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices hold different parts of each logit vector.

        A vocabulary that is stored along an axis of the tokens is gathered from there.
        """
        token_axes = self.token_axes
        return tuple(a for a in self._mesh_axes("vocab") if a not in token_axes)

    @property
    def gathered_axes(self) -> tuple[str, ...]:
        """The mesh axes over which D is stored in pieces, and gathered to be used."""
        token_axes = self.token_axes
        return tuple(a for a in self._mesh_axes("embed") if a in token_axes)

    def student_specs(self, model: Any) -> Any:
        """Returns how the student, and the gradient of it, enter and leave devices.

        The specs are in an `Unembedding`, in place of its arrays.
        """
        return model.replace(
            hidden_BLD=PartitionSpec(*self.tokens_spec, None),
            embedding_VD=PartitionSpec(self.vocab_axes, self.gathered_axes),
        )

    def teacher_specs(self, model: Any) -> Any:
        """Returns how a model without gradient enters devices: D is whole."""
        if model is None:
            return None
        return self.student_specs(model).replace(
            embedding_VD=PartitionSpec(self.vocab_axes, None)
        )

    def on_devices(
        self, body: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        """Returns `body`, to be called with whole arrays and run on each part."""
        mesh = self.partitioning.mesh
        return jax.shard_map(body, mesh=mesh, in_specs=in_specs, out_specs=out_specs)

    def gather_embedding(self, model: Unembedding) -> Unembedding:
        """Returns `model` with all of D, in the compute dtype."""
        # Cast first: what moves between devices is then half as large in bfloat16.
        embedding_VD = model.embedding_VD.astype(model.hidden_BLD.dtype)
        if self.gathered_axes:
            embedding_VD = jax.lax.all_gather(
                embedding_VD, self.gathered_axes, axis=1, tiled=True
            )
        return dataclasses.replace(model, embedding_VD=embedding_VD)

    def scatter_gradient(self, gradient_VD: jax.Array) -> jax.Array:
        """Returns the sum over all tokens of `gradient_VD`, in the student's pieces."""
        if self.gathered_axes:
            gradient_VD = jax.lax.psum_scatter(
                gradient_VD, self.gathered_axes, scatter_dimension=1, tiled=True
            )
        rest = tuple(a for a in self.token_axes if a not in self.gathered_axes)
        return jax.lax.psum(gradient_VD, rest) if rest else gradient_VD

    def sum_over_vocab(self, partial: Any) -> Any:
        """Returns a tree of arrays added up over the devices that split V."""
        return jax.lax.psum(partial, self.vocab_axes) if self.vocab_axes else partial

    def zero_gradient(self, embedding_VD: jax.Array) -> jax.Array:
        """Returns float32 zeros, to which a device adds the gradient of its tokens."""
        zeros_VD = jnp.zeros(embedding_VD.shape, jnp.float32)
        axes = self.token_axes + self.vocab_axes
        return jax.lax.pcast(zeros_VD, axes, to="varying") if axes else zeros_VD

    def scan(self, step: Callable[..., Any], carry: Any, tokens_BL: Any) -> Any:
        """Applies `step(carry, chunk) -> (carry, outputs)` to a device's tokens.

        Args:
          step: Reads and returns arrays that begin with C, of at most `chunk_tokens`.
          carry: What the first step is given.
          tokens_BL: A tree of arrays that begin with B and L. The chunks are made
            equal by adding zeros to the end.

        Returns:
          The last carry, and the outputs of all steps as arrays that begin with B, L.
        """
        rows, length = jax.tree.leaves(tokens_BL)[0].shape[:2]
        tokens = rows * length
        num_chunks = -(-tokens // self.chunk_tokens)
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
        max_C1 = jnp.max(logits_CV, axis=-1, keepdims=True)
        return jax.lax.pmax(max_C1, self.vocab_axes) if self.vocab_axes else max_C1

    def is_target(self, like_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns where the target is, which is nowhere if another device has it."""
        ids_CV = jax.lax.broadcasted_iota(targets_C.dtype, like_CV.shape, 1)
        return ids_CV == self._local(like_CV, targets_C)[:, None]

    def target_share(self, x_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns x at the targets as x_C1, zero for those that another device has.

        A target that no device has gives NaN, which a sum over devices keeps.
        """
        size = x_CV.shape[1]
        mesh = self.partitioning.mesh
        whole = size * math.prod(mesh.shape[axis] for axis in self.vocab_axes)
        local_C1 = self._local(x_CV, targets_C)[:, None]
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
        sizes = dict(zip(("batch", "length"), targets_BL.shape, strict=True))
        self._check_divides(sizes["batch"], "batch", self._mesh_axes("batch"))
        self._check_divides(sizes["length"], "length", self._mesh_axes("length"))
        vocab_size, embed_dim = model.embedding_VD.shape
        self._check_divides(vocab_size, "vocab", self.vocab_axes)
        self._check_divides(embed_dim, "embed", self.gathered_axes)

    def _local(self, x_CV: jax.Array, targets_C: jax.Array) -> jax.Array:
        """Returns targets counted from the first token of this device's share of V."""
        if not self.vocab_axes:
            return targets_C
        return targets_C - jax.lax.axis_index(self.vocab_axes) * x_CV.shape[1]

    def _mesh_axes(self, axis: str) -> tuple[str, ...]:
        (mesh_axes,) = self.partitioning.spec(axis)
        return (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()

    def _check_divides(self, size: int, axis: str, mesh_axes: tuple[str, ...]) -> None:
        shape = {name: self.partitioning.mesh.shape[name] for name in mesh_axes}
        if size % math.prod(shape.values()):
            raise ValueError(
                f"The axis {axis!r} of size {size} does not divide over {shape} of the "
                "mesh: change the mesh, the axis rule or the size."
            )


def token_statistics(
    chunks: TokenChunks, model: Unembedding, targets_BL: jax.Array
) -> TokenStatistics:
    """Returns what `model` made of each target."""

    def body(model, targets_BL):
        model = chunks.gather_embedding(model)

        def read(_, chunk):
            hidden_CD, targets_C = chunk
            logits_CV = chunks.logits(model, hidden_CD)
            max_C1 = chunks.largest(logits_CV)
            sum_C1 = _sum(jnp.exp(logits_CV - max_C1))
            # Both sums in one loop, as XLA would make them, take a CPU 3 times as long.
            shifted_CV = logits_CV - jax.lax.optimization_barrier(max_C1)
            dot_C1 = _sum(jnp.exp(shifted_CV) * shifted_CV)
            share_C1 = chunks.target_share(logits_CV, targets_C)
            sums = (sum_C1, dot_C1, share_C1)
            sum_C1, dot_C1, target_C1 = chunks.sum_over_vocab(sums)
            above_C1 = _sum((logits_CV > target_C1).astype(jnp.int32))
            rank_C1 = chunks.sum_over_vocab(above_C1)
            ce_C1 = jnp.log(sum_C1) + (max_C1 - target_C1)
            entropy_C1 = jnp.log(sum_C1) - dot_C1 / sum_C1
            return None, TokenStatistics(ce_C1[:, 0], rank_C1[:, 0], entropy_C1[:, 0])

        return chunks.scan(read, None, (model.hidden_BLD, targets_BL))[1]

    tokens = chunks.tokens_spec
    run = chunks.on_devices(body, (chunks.student_specs(model), tokens), tokens)
    return run(model, targets_BL)


def _sum(x_CV: jax.Array) -> jax.Array:
    return jnp.sum(x_CV, axis=-1, keepdims=True)
