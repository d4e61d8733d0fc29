"""Samples the next token from the logits: greedy, temperature, top-k and top-p.

Dimensions: B batch, V vocabulary, K candidates.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

SEEDS = 1 << 32  # Seeds are below this.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings for sampling the next token.

    A sample depends on this seed, the prompt's seed and the number of tokens sampled
    before, and not on the batch that contains the prompt.
    """

    temperature: float = 0.0  # Divides the logits; 0 is greedy.
    top_k: int | None = None  # Sample from the k likeliest tokens; None: from all.
    # Nucleus sampling: keep the smallest set of tokens with this total probability,
    # after top_k.
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(
                f"temperature={self.temperature} is not a finite number of at least 0."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} leaves no token: give 1 or more.")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} is not above 0 and at most 1.")
        if self.is_greedy and (self.top_k or self.top_p):
            raise ValueError(
                f"top_k={self.top_k} and top_p={self.top_p} have no effect at "
                "temperature=0, which is greedy: raise it, or leave them out."
            )
        check_seeds([self.seed])

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always chosen."""
        return self.temperature == 0.0

    def next_tokens(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """Samples a token for each row, int32 [B].

        Args:
          logits_BV: float32.
          keys_B: A random key for each row.
        """
        if self.is_greedy:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        V = logits_BV.shape[1]
        logits_BV = logits_BV / self.temperature
        # Gumbel noise is drawn per token and not per rank, because rounding, which
        # varies between batches, may change ranks.
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, (V,)))(keys_B)
        if self.top_k is None and self.top_p is None:
            return jnp.argmax(logits_BV + noise_BV, axis=-1).astype(jnp.int32)
        likely_BK, tokens_BK = jax.lax.top_k(logits_BV, min(self.top_k or V, V))
        if self.top_p is not None:
            share_BK = jax.nn.softmax(likely_BK, axis=-1)
            before_BK = jnp.cumsum(share_BK, axis=-1) - share_BK
            likely_BK = jnp.where(before_BK < self.top_p, likely_BK, -jnp.inf)
        noise_BK = jnp.take_along_axis(noise_BV, tokens_BK, axis=1)
        drawn_B1 = jnp.argmax(likely_BK + noise_BK, axis=-1, keepdims=True)
        return jnp.take_along_axis(tokens_BK, drawn_B1, axis=1)[:, 0].astype(jnp.int32)


def check_seeds(seeds: list[int]) -> None:
    """Raises ValueError if a seed is outside [0, `SEEDS`)."""
    wrong = [seed for seed in seeds if not 0 <= seed < SEEDS]
    if wrong:
        raise ValueError(f"The seed {wrong[0]} is not from 0 to {SEEDS - 1}.")
