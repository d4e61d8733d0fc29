"""The two compiled programs: one reads prompts, the other adds tokens to them.

There is one pair of them for each shape: rows, columns of the prompts, and tokens to
write.

Dimensions: B batch, L columns of the prompts, N tokens to write, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.generation.sampling import Sampling
from salt_jax.model.cache import Cache, empty_cache
from salt_jax.model.transformer import Params, Transformer


@flax.struct.dataclass
class Prompts:
    """What rows begin with; numpy arrays on the host."""

    tokens_BL: jax.Array  # int32, padded on the left.
    lengths_B: jax.Array  # int32, how many columns are text, the begin token with it.
    seeds_B: jax.Array  # uint32, each row's own.
    seed: jax.Array  # uint32, of all.

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        seed: int,
        begin_id: int,
        shape: tuple[int, int],
    ) -> Prompts:
        """Returns `prompts`, each after `begin_id`, in rows and columns of `shape`.

        Rows that are too many have nothing but that.
        """
        tokens_BL: Any = np.full(shape, begin_id, np.int32)
        lengths_B: Any = np.ones(shape[0], np.int32)
        seeds_B: Any = np.zeros(shape[0], np.uint32)
        for row, prompt in enumerate(prompts):
            tokens_BL[row, shape[1] - len(prompt) :] = prompt
            lengths_B[row] = len(prompt) + 1
        seeds_B[: len(prompts)] = seeds
        seed_: Any = np.uint32(seed)
        return cls(tokens_BL, lengths_B, seeds_B, seed_)


@flax.struct.dataclass
class DecodeState:
    """What was added to each row so far."""

    tokens_BN: jax.Array  # int32
    count: jax.Array  # int32, how many columns of these are there.
    is_done_B: jax.Array  # Whether the row ended; what it has after that says nothing.


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """What the programs of a shape are compiled for, beside the shape."""

    model: Transformer
    sampling: Sampling  # Its seed is not looked at.
    num_tokens: int  # Of the vocabulary: a model may have embeddings of no token.
    end_ids: tuple[int, ...]  # The tokens that end a text.


class Programs(NamedTuple):
    """What a model does with prompts; both are compiled when they are first called."""

    prefill: jax.stages.Wrapped  # Of the arguments of `_prefill` but the first.
    decode: jax.stages.Wrapped  # Of those of `_decode` but the first.


@functools.cache
def programs(config: DecodingConfig) -> Programs:
    """Returns the two programs of `config`, always the same ones."""
    # A host reads all that is written, wherever the rows are.
    shardings = None, config.model.partitioning.sharding()
    prefill = functools.partial(_prefill, config)
    decode = functools.partial(_decode, config)
    return Programs(
        prefill=jax.jit(prefill, static_argnums=0, out_shardings=shardings),
        decode=jax.jit(decode, donate_argnums=(1, 2), out_shardings=shardings),
    )


def _prefill(
    config: DecodingConfig,
    room: int,
    params: Params,
    prompts: Prompts,
    is_done_B: jax.Array,
) -> tuple[Cache, DecodeState]:
    """Reads prompts, and draws the first token of each.

    Args:
      config: The model, and how to draw.
      room: N, how many tokens there will be room for.
      params: Of the model.
      prompts: The rows.
      is_done_B: Those that are only there to fill the batch.
    """
    B, L = prompts.tokens_BL.shape
    column_1L = jnp.arange(L, dtype=jnp.int32)[None]
    positions_BL = column_1L - (L - prompts.lengths_B[:, None])
    segments_BL = (positions_BL >= 0).astype(jnp.int32)
    cache = empty_cache(config.model, B, L + room)
    batch = _inputs(prompts.tokens_BL, segments_BL, jnp.maximum(positions_BL, 0))
    cache, first_B = _next_tokens(config, params, cache, batch, prompts, jnp.int32(0))
    tokens_BN = jnp.zeros((B, room), jnp.int32).at[:, 0].set(first_B)
    is_done_B = is_done_B | _is_end(config, first_B)
    return cache, DecodeState(tokens_BN, jnp.int32(1), is_done_B)


def _decode(
    config: DecodingConfig,
    params: Params,
    cache: Cache,
    written: DecodeState,
    prompts: Prompts,
    is_done_B: jax.Array,
    until: jax.Array,
) -> tuple[Cache, DecodeState]:
    """Adds tokens until there are `until` of them, or every row is done.

    Args:
      config: The model, and how to draw.
      params: Of the model.
      cache: Of all columns but the last; it is given up.
      written: So far; it is given up.
      prompts: That the rows began with.
      is_done_B: Those that need no more, beside those of `written`.
      until: int32, at most N.
    """
    is_done_B = written.is_done_B | is_done_B
    written = DecodeState(written.tokens_BN, written.count, is_done_B)

    def is_going_on(state: tuple[Cache, DecodeState]) -> jax.Array:
        written = state[1]
        return (written.count < until) & ~jnp.all(written.is_done_B)

    def add(state: tuple[Cache, DecodeState]) -> tuple[Cache, DecodeState]:
        cache, written = state
        at = written.count
        last_B1 = jax.lax.dynamic_slice_in_dim(written.tokens_BN, at - 1, 1, axis=1)
        positions_B1 = (prompts.lengths_B + at - 1)[:, None]
        batch = _inputs(last_B1, jnp.ones_like(last_B1), positions_B1)
        cache, next_B = _next_tokens(config, params, cache, batch, prompts, at)
        tokens_BN = jax.lax.dynamic_update_slice_in_dim(
            written.tokens_BN, next_B[:, None], at, axis=1
        )
        is_done_B = written.is_done_B | _is_end(config, next_B)
        return cache, DecodeState(tokens_BN, at + 1, is_done_B)

    return jax.lax.while_loop(is_going_on, add, (cache, written))


def _is_end(config: DecodingConfig, tokens_B: jax.Array) -> jax.Array:
    return jnp.isin(tokens_B, jnp.array(config.end_ids))


def _inputs(
    tokens_BL: jax.Array, segments_BL: jax.Array, positions_BL: jax.Array
) -> Batch:
    return Batch(
        tokens_BL=tokens_BL,
        targets_BL=tokens_BL,  # Not looked at, and nor are the weights.
        weights_BL=jnp.zeros(tokens_BL.shape, jnp.float32),
        segments_BL=segments_BL,
        positions_BL=positions_BL,
    )


def _next_tokens(
    config: DecodingConfig,
    params: Params,
    cache: Cache,
    batch: Batch,
    prompts: Prompts,
    count: jax.Array,
) -> tuple[Cache, jax.Array]:
    """Returns the cache with the columns of `batch`, and what comes after the last."""
    read: Any
    read, cache = cast(Any, config.model.apply(params, batch, cache))
    logits_BV = read.replace(hidden_BLD=read.hidden_BLD[:, -1:]).logits()[:, 0]
    is_token_1V = jnp.arange(logits_BV.shape[1])[None] < config.num_tokens
    logits_BV = jnp.where(is_token_1V, logits_BV, -jnp.inf)

    def key(row_seed: jax.Array) -> jax.Array:
        of_row = jax.random.fold_in(jax.random.key(prompts.seed), row_seed)
        return jax.random.fold_in(of_row, count)

    keys_B = jax.vmap(key)(prompts.seeds_B)
    return cache, config.sampling.next_tokens(logits_BV, keys_B)
