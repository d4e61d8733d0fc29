"""How a model reads text that it does not learn from.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from salt_jax.batch import Batch
from salt_jax.loss.losses import TokenStatistics, chunked_token_statistics
from salt_jax.model.transformer import Params, Transformer

ReadTokens = Callable[[Params, Batch], TokenStatistics]


def token_reader(
    model: Transformer, chunk_tokens: int, *, with_entropy: bool = False
) -> ReadTokens:
    """Returns a compiled function: the loss and the rank of every target of a batch.

    Scoring and evaluation are both this one forward pass. Entropy is a second sum over
    the vocabulary, which costs a small model a twentieth of its speed.

    Args:
      model: Of the parameters that the function is given.
      chunk_tokens: The most tokens of which one device holds logits.
      with_entropy: Whether the statistics have an entropy; without, it is None, and
        the compiler leaves its sum out.
    """

    def read(params: Params, batch: Batch) -> TokenStatistics:
        unembedding: Any = model.apply(params, batch)
        statistics = chunked_token_statistics(
            unembedding,
            batch.targets_BL,
            partitioning=model.partitioning,
            chunk_tokens=chunk_tokens,
        )
        if with_entropy:
            return statistics
        return dataclasses.replace(statistics, entropy_BL=None)

    everywhere = model.partitioning.sharding()
    return jax.jit(read, out_shardings=everywhere)
