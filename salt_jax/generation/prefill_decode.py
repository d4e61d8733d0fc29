"""The two compiled programs of generation: prefill, and a decoding loop.

They are compiled for each shape: batch, prompt length and maximum number of new tokens.

Dimensions: B batch, L prompt length, N maximum number of new tokens, V vocabulary.
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
    """A batch of prompts; numpy arrays on the host."""

    tokens_BL: jax.Array  # int32, padded on the left.
    lengths_B: jax.Array  # int32, tokens of each prompt, with the begin token.
    seeds_B: jax.Array  # uint32, one for each row.
    seed: jax.Array  # uint32, shared by all rows.

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
        """Returns `prompts` in an array of `shape`, each behind `begin_id`.

        Rows beyond the prompts contain only `begin_id`.
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
    """The tokens generated so far."""

    tokens_BN: jax.Array  # int32
    count: jax.Array  # int32, the number of columns of `tokens_BN` that are filled.
    is_done_B: jax.Array  # Whether a row has ended; its later tokens are meaningless.


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """The static arguments of both programs, besides shapes."""

    model: Transformer
    sampling: Sampling  # Its seed is ignored.
    num_tokens: int  # The vocabulary's size; the model's may be padded to more.
    end_ids: tuple[int, ...]  # The tokens that end a text.


class Programs(NamedTuple):
    """The two programs, which are compiled on their first call."""

    prefill: jax.stages.Wrapped  # `_prefill` without its first argument.
    decode: jax.stages.Wrapped  # `_decode` without its first argument.


@functools.cache
def programs(config: DecodingConfig) -> Programs:
    """Returns the two programs of `config`, from a cache."""
    # The generated tokens are replicated, so that every host can read them.
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
    """Prefills the cache with the prompts, and samples the first token of each.

    Args:
      config: The model and the sampling.
      room: N, the number of new tokens to allocate room for.
      params: The model's parameters.
      prompts: The prompts.
      is_done_B: True for rows that only pad the batch.
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
    """Decodes until there are `until` new tokens, or every row is done.

    Args:
      config: The model and the sampling.
      params: The model's parameters.
      cache: Keys and values of all tokens but the last; donated.
      written: The tokens so far; donated.
      prompts: The prompts.
      is_done_B: True for further rows that need no more tokens.
      until: int32, at most N.
    """
    is_done_B = written.is_done_B | is_done_B
    written = DecodeState(written.tokens_BN, written.count, is_done_B)

    def is_unfinished(state: tuple[Cache, DecodeState]) -> jax.Array:
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

    return jax.lax.while_loop(is_unfinished, add, (cache, written))


def _is_end(config: DecodingConfig, tokens_B: jax.Array) -> jax.Array:
    return jnp.isin(tokens_B, jnp.array(config.end_ids))


def _inputs(
    tokens_BL: jax.Array, segments_BL: jax.Array, positions_BL: jax.Array
) -> Batch:
    return Batch(
        tokens_BL=tokens_BL,
        targets_BL=tokens_BL,  # Unused, like the weights.
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
    """Returns the cache with `batch` appended, and a sampled token for each row."""
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
