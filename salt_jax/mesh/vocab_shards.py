"""The embedding on a mesh: its stored shards, and its shards in a computation.

The rules for "vocab" and "vocab_embed" shard the stored embedding. A computation
all-gathers it until only the mesh axes of "act_vocab" shard it. If devices along those
axes hold different tokens, they exchange hidden states: a token's hidden state is small
beside the embedding, which would otherwise be gathered whole.

Dimensions: D embed, V vocabulary, C tokens. Inside `shard_map`, each is the device's
part.
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
from salt_jax.mesh.shard_maps import on_devices


@dataclasses.dataclass(frozen=True)
class VocabShards:
    """The shards of an embedding, and the exchange of tokens between devices.

    Methods that take arrays are called inside `jax.shard_map`.
    """

    partitioning: Partitioning

    def __post_init__(self):
        stored, used = self._mesh_axes("vocab"), self.axes
        if stored[: len(used)] != used:
            raise ValueError(
                f"The rule for 'vocab' is {stored} and for 'act_vocab' {used}: 'vocab' "
                "must begin with the axes of 'act_vocab'."
            )

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices compute with different parts of V."""
        return self._mesh_axes("act_vocab")

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices hold different tokens."""
        return self._mesh_axes("batch") + self._mesh_axes("length")

    @property
    def shared_axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices exchange their tokens."""
        return tuple(axis for axis in self.axes if axis in self.token_axes)

    @property
    def num_sharing(self) -> int:
        """The number of devices that exchange their tokens."""
        return self._size(self.shared_axes)

    @property
    def num_shards(self) -> int:
        """The number of shards of V in a computation."""
        return self._size(self.axes)

    @property
    def stored_spec(self) -> PartitionSpec:
        """The spec of a stored embedding, and of the gradient by it."""
        return self.partitioning.spec("vocab", "vocab_embed")

    @property
    def used_spec(self) -> PartitionSpec:
        """The spec of an embedding in a computation."""
        return PartitionSpec(self.axes or None, None)

    def on_devices(
        self, body: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        """Returns `body` under `jax.shard_map` over the mesh."""
        return on_devices(self.partitioning, body, in_specs, out_specs)

    def gather_embedding(self, embedding_VD: jax.Array) -> jax.Array:
        """Returns the device's part of V, all-gathered from the stored shards."""
        for axes, dimension in self._gathered:
            embedding_VD = jax.lax.all_gather(
                embedding_VD, axes, axis=dimension, tiled=True
            )
        return embedding_VD

    def scatter_gradient(self, gradient_VD: jax.Array) -> jax.Array:
        """Returns `gradient_VD` summed over all tokens, sharded as it is stored."""
        for axes, dimension in reversed(self._gathered):
            gradient_VD = jax.lax.psum_scatter(
                gradient_VD, axes, scatter_dimension=dimension, tiled=True
            )
        gathered = tuple(axis for axes, _ in self._gathered for axis in axes)
        # Devices along axes that do not shard tokens computed the same gradient.
        alike = tuple(axis for axis in gathered if axis not in self.token_axes)
        gradient_VD /= self._size(alike)
        done = self.axes + gathered
        rest = tuple(axis for axis in self.token_axes if axis not in done)
        return jax.lax.psum(gradient_VD, rest) if rest else gradient_VD

    def share(self, tokens: Any) -> Any:
        """All-gathers arrays with first dimension C from the devices that exchange."""
        if not self.shared_axes:
            return tokens
        return jax.tree.map(
            lambda x: jax.lax.all_gather(x, self.shared_axes, axis=0, tiled=True),
            tokens,
        )

    def own(self, values: Any) -> Any:
        """Returns the values of this device's own tokens; the inverse of `share`."""
        if not self.shared_axes:
            return values
        index = jax.lax.axis_index(self.shared_axes)

        def part(x):
            size = x.shape[0] // self.num_sharing
            return jax.lax.dynamic_slice_in_dim(x, index * size, size)

        return jax.tree.map(part, values)

    def sum_to_own(self, partial_CD: jax.Array) -> jax.Array:
        """Returns `partial_CD` summed over the shards of V, for the own tokens."""
        if self.shared_axes:
            partial_CD = jax.lax.psum_scatter(
                partial_CD, self.shared_axes, scatter_dimension=0, tiled=True
            )
        rest = tuple(axis for axis in self.axes if axis not in self.shared_axes)
        return jax.lax.psum(partial_CD, rest) if rest else partial_CD

    def sum(self, partial: Any) -> Any:
        """Returns a tree of arrays summed over the shards of V."""
        return jax.lax.psum(partial, self.axes) if self.axes else partial

    def largest(self, x_C1: jax.Array) -> jax.Array:
        """Returns the maximum over the shards of V."""
        return jax.lax.pmax(x_C1, self.axes) if self.axes else x_C1

    def local(self, ids_C: jax.Array, size: int) -> jax.Array:
        """Returns token ids relative to the first id of the device's part of V.

        `size` is the size of that part.
        """
        if not self.axes:
            return ids_C
        return ids_C - jax.lax.axis_index(self.axes) * size

    def check(self, embedding_VD: jax.Array) -> None:
        """Raises ValueError if an embedding does not divide over the mesh."""
        for size, axis in zip(
            embedding_VD.shape, ("vocab", "vocab_embed"), strict=True
        ):
            self.check_divides(size, axis)

    def check_divides(self, size: int, axis: str) -> None:
        """Raises ValueError if a dimension does not divide over the mesh."""
        shape = {name: self._size((name,)) for name in self._mesh_axes(axis)}
        if size % math.prod(shape.values()):
            raise ValueError(
                f"The axis {axis!r} of size {size} does not divide over the mesh axes "
                f"{shape}: change the mesh, the axis rule or the size."
            )

    @property
    def _gathered(self) -> list[tuple[tuple[str, ...], int]]:
        """The mesh axes to all-gather over, each with the embedding's dimension."""
        rest = self._mesh_axes("vocab")[len(self.axes) :]
        embed = self._mesh_axes("vocab_embed")
        return [(axes, i) for i, axes in enumerate((rest, embed)) if axes]

    def _mesh_axes(self, axis: str) -> tuple[str, ...]:
        """The mesh axes of a rule; none on one device, where XLA would copy."""
        if math.prod(self.partitioning.mesh.shape.values()) == 1:
            return ()
        return self.partitioning.mesh_axes(axis)

    def _size(self, axes: tuple[str, ...]) -> int:
        return math.prod(self.partitioning.mesh.shape[axis] for axis in axes)


def look_up(
    partitioning: Partitioning,
    embedding_VD: jax.Array,
    tokens_BL: jax.Array,
    dtype: str,
) -> jax.Array:
    """Returns the embeddings x_BLD of `tokens_BL` in `dtype`.

    The gradient is accumulated in the embedding's own dtype, so float32 for a float32
    embedding whatever `dtype` is. A token outside the vocabulary gives NaN.
    """
    shards = VocabShards(partitioning)
    shards.check(embedding_VD)

    def body(embedding_VD, tokens_BL):
        embedding_VD = shards.gather_embedding(embedding_VD)
        size = embedding_VD.shape[0]
        ids_C = shards.local(shards.share(tokens_BL.reshape(-1)), size)
        here_C1 = ((ids_C >= 0) & (ids_C < size))[:, None]
        x_CD = jnp.take(embedding_VD, jnp.clip(ids_C, 0, size - 1), axis=0)
        # Exactly one device has the row, so summing it with zeros is exact.
        x_CD = jnp.where(here_C1, x_CD, 0.0).astype(dtype)
        x_BLD = shards.sum_to_own(x_CD).reshape(*tokens_BL.shape, -1)
        is_token_BL = (tokens_BL >= 0) & (tokens_BL < size * shards.num_shards)
        return jnp.where(is_token_BL[:, :, None], x_BLD, jnp.nan)

    tokens_spec = partitioning.spec("batch", "length")
    run = shards.on_devices(
        body, (shards.stored_spec, tokens_spec), PartitionSpec(*tokens_spec, None)
    )
    return run(embedding_VD, tokens_BL)
