"""How the next token is drawn from the logits of a row.

Dimensions: B batch, V vocabulary, K candidates.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

SEEDS = 1 << 32  # How many there are.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which tokens may come next, and with which probability.

    What is drawn depends on the seed, on the number of the prompt and on how many
    tokens were drawn before, and so not on the batch that the prompt is read in.
    """

    temperature: float = 0.0  # Divides the logits; 0 takes the likeliest token.
    top_k: int | None = None  # Only of the k likeliest; None: of all.
    # Only of the fewest that have at least this share of the probability, of what
    # top_k leaves.
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(
                f"temperature={self.temperature} is not a number from 0, which takes "
                "the likeliest token, on."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} leaves no token: give 1 or more.")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} is not above 0 and at most 1.")
        if self.is_greedy and (self.top_k or self.top_p):
            raise ValueError(
                f"top_k={self.top_k} and top_p={self.top_p} have no effect at "
                "temperature=0, which takes the likeliest token: raise it, or leave "
                "them out."
            )
        check_seeds([self.seed])

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    def next_tokens(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """Returns a token of each row, int32 [B].

        Args:
          logits_BV: In float32.
          keys_B: Of each row's own random numbers.
        """
        if self.is_greedy:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        V = logits_BV.shape[1]
        logits_BV = logits_BV / self.temperature
        # The noise belongs to a token, not to its rank: rounding, which differs from
        # batch to batch, may change the rank.
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
    """Raises ValueError if a number is none that randomness can begin from."""
    wrong = [seed for seed in seeds if not 0 <= seed < SEEDS]
    if wrong:
        raise ValueError(f"The seed {wrong[0]} is not from 0 to {SEEDS - 1}.")
