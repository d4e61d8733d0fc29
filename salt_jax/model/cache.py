"""Keys and values of tokens already read, so that the next ones need only themselves.

Dimensions: N layers, B batch, L length, M columns of the cache, G key-value heads,
K head_dim.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from salt_jax.batch import Batch
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.config import TransformerConfig


class Decoder(Protocol):
    """What a cache needs to know of a `Transformer`."""

    @property
    def config(self) -> TransformerConfig: ...

    @property
    def partitioning(self) -> Partitioning: ...


@flax.struct.dataclass
class Cache:
    """What every layer remembers of the columns that a model has read.

    All rows are filled to the same column: texts of different lengths end in one
    column, and what stands before a shorter one is padding, of segment 0.
    """

    keys_NBGMK: jax.Array  # Turned to their positions.
    values_NBGMK: jax.Array
    segments_BM: jax.Array  # int32; 0 is padding, and what is not filled.
    used: jax.Array  # int32, the columns filled; where the next one goes.

    def admit(self, batch: Batch) -> Cache:
        """Returns the cache with the columns of `batch`, but for keys and values.

        Raises:
          ValueError: it has not as many rows, or never room for as many columns.
        """
        rows, length = batch.segments_BL.shape
        own_rows, own_length = self.segments_BM.shape
        if rows != own_rows or length > own_length:
            raise ValueError(
                f"A batch of {rows} rows of {length} tokens does not fit a cache of "
                f"{own_rows} rows of {own_length}: make it with empty_cache for as "
                "many rows, and for all tokens to be read and written."
            )
        segments_BM = jax.lax.dynamic_update_slice(
            self.segments_BM, batch.segments_BL, (0, self.used)
        )
        return dataclasses.replace(
            self, segments_BM=segments_BM, used=self.used + length
        )

    def put(
        self, layer: jax.Array | int, k_BLGK: jax.Array, v_BLGK: jax.Array
    ) -> Cache:
        """Returns the cache with what `layer` made of the batch admitted last."""
        first = self.used - k_BLGK.shape[1]

        def write(held_NBGMK: jax.Array, new_BLGK: jax.Array) -> jax.Array:
            new_1BGLK = new_BLGK.swapaxes(1, 2)[None].astype(held_NBGMK.dtype)
            at = (layer, 0, 0, first, 0)
            return jax.lax.dynamic_update_slice(held_NBGMK, new_1BGLK, at)

        return dataclasses.replace(
            self,
            keys_NBGMK=write(self.keys_NBGMK, k_BLGK),
            values_NBGMK=write(self.values_NBGMK, v_BLGK),
        )

    def read(self, layer: jax.Array | int, dtype: str) -> tuple[jax.Array, jax.Array]:
        """Returns the k_BMGK and the v_BMGK of `layer`."""

        def of_layer(held_NBGMK: jax.Array) -> jax.Array:
            held_BGMK = jax.lax.dynamic_index_in_dim(held_NBGMK, layer, keepdims=False)
            return held_BGMK.swapaxes(1, 2).astype(dtype)

        return of_layer(self.keys_NBGMK), of_layer(self.values_NBGMK)


def empty_cache(
    model: Decoder, rows: int, length: int, dtype: str | None = None
) -> Cache:
    """Returns a cache that holds nothing yet, split over the model's mesh.

    Args:
      model: A `Transformer`, which will fill it.
      rows: Of a batch.
      length: How many tokens of a row are read and written together.
      dtype: Of keys and values; by default the one that the model computes in.

    Raises:
      ValueError: `rows` do not divide over the mesh, or there is no length.
    """
    config, partitioning = model.config, model.partitioning
    pieces = partitioning.size("batch")
    if rows < 1 or rows % pieces or length < 1:
        raise ValueError(
            f"A cache of {rows} rows of {length} tokens: rows must be a multiple of "
            f"{pieces}, into which the mesh splits a batch, and tokens positive."
        )
    shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)

    def zeros() -> jax.Array:
        axes = (None, "batch", "kv_heads", None, "head_dim")
        return partitioning.constrain(jnp.zeros(shape, dtype or config.dtype), *axes)

    return Cache(
        keys_NBGMK=zeros(),
        values_NBGMK=zeros(),
        segments_BM=partitioning.constrain(
            jnp.zeros((rows, length), jnp.int32), "batch", None
        ),
        used=jnp.zeros((), jnp.int32),
    )
