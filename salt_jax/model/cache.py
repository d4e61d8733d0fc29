"""The key-value cache of incremental decoding.

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
    """The attributes of `Transformer` that a cache reads; avoids an import cycle."""

    @property
    def config(self) -> TransformerConfig: ...

    @property
    def partitioning(self) -> Partitioning: ...


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, for the columns that a model has read.

    All rows are filled to the same column. Shorter texts are padded on the left, with
    segment 0.
    """

    keys_NBGMK: jax.Array  # Already rotated.
    values_NBGMK: jax.Array
    segments_BM: jax.Array  # int32; 0 is padding or an empty column.
    used: jax.Array  # int32: how many columns are filled.

    def admit(self, batch: Batch) -> Cache:
        """Returns the cache with columns for `batch`; `put` fills in keys and values.

        Raises:
          ValueError: row counts differ, or the batch is longer than the cache.
        """
        rows, length = batch.segments_BL.shape
        own_rows, own_length = self.segments_BM.shape
        if rows != own_rows or length > own_length:
            raise ValueError(
                f"A batch of {rows} rows of {length} tokens does not fit a cache of "
                f"{own_rows} rows of {own_length}: call empty_cache with the rows of "
                "the batch and a length for the prompt and the continuation."
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
        """Returns the cache with keys and values of `layer` for the last batch."""
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
        """Returns k_BMGK and v_BMGK of `layer` in `dtype`."""

        def of_layer(held_NBGMK: jax.Array) -> jax.Array:
            held_BGMK = jax.lax.dynamic_index_in_dim(held_NBGMK, layer, keepdims=False)
            return held_BGMK.swapaxes(1, 2).astype(dtype)

        return of_layer(self.keys_NBGMK), of_layer(self.values_NBGMK)


def empty_cache(
    model: Decoder, rows: int, length: int, dtype: str | None = None
) -> Cache:
    """Returns an empty cache, sharded over the model's mesh.

    Args:
      model: The `Transformer` that will fill it.
      rows: Rows of a batch.
      length: Tokens of a row: prompt and continuation together.
      dtype: The dtype of keys and values; the model's compute dtype by default.

    Raises:
      ValueError: `rows` does not divide over the mesh, or `length` is not positive.
    """
    config, partitioning = model.config, model.partitioning
    pieces = partitioning.size("batch")
    if rows < 1 or rows % pieces or length < 1:
        raise ValueError(
            f"A cache cannot have {rows} rows of {length} tokens: rows must be a "
            f"positive multiple of {pieces}, the batch shards of the mesh, and tokens "
            "positive."
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
