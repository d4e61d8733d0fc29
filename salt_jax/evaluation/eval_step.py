"""The forward pass that scores targets, without gradients.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from salt_jax.batch import Batch
from salt_jax.loss.token_statistics import TokenStatistics, chunked_token_statistics
from salt_jax.model.transformer import Params, Transformer

ReadTokens = Callable[[Params, Batch], TokenStatistics]


def token_reader(
    model: Transformer,
    chunk_tokens: int,
    *,
    with_entropy: bool = False,
    real_vocab_size: int | None = None,
    kernel: str = "auto",
) -> ReadTokens:
    """Returns a jitted function: per-target loss and rank of a batch, on every device.

    Scoring and evaluation share this forward pass. Entropy needs a second sum over the
    vocabulary, which slows a small model by about 5%.

    Args:
      model: The model whose parameters the function takes.
      chunk_tokens: The largest number of tokens whose logits one device holds.
      with_entropy: Whether to compute the entropy too; otherwise it is None.
      real_vocab_size: Tokens from here on have no probability; None: all have.
      kernel: What computes the statistics: one of `kernel_choice.NAMES`.
    """

    def read(params: Params, batch: Batch) -> TokenStatistics:
        unembedding: Any = model.apply(params, batch)
        statistics = chunked_token_statistics(
            unembedding,
            batch.targets_BL,
            partitioning=model.partitioning,
            chunk_tokens=chunk_tokens,
            real_vocab_size=real_vocab_size,
            kernel=kernel,
        )
        if with_entropy:
            return statistics
        return dataclasses.replace(statistics, entropy_BL=None)

    everywhere = model.partitioning.sharding()
    return jax.jit(read, out_shardings=everywhere)
