"""How a model reads text that it does not learn from.

Dimensions: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from salt_jax.batch import Batch
from salt_jax.losses import TokenStatistics, chunked_token_statistics
from salt_jax.model.transformer import Params, Transformer

ReadTokens = Callable[[Params, Batch], TokenStatistics]


def token_reader(model: Transformer, chunk_tokens: int) -> ReadTokens:
    """Returns a compiled function: the loss and the rank of every target of a batch.

    Scoring and evaluation are both this one forward pass.
    """

    def read(params: Params, batch: Batch) -> TokenStatistics:
        unembedding: Any = model.apply(params, batch)
        return chunked_token_statistics(
            unembedding,
            batch.targets_BL,
            partitioning=model.partitioning,
            chunk_tokens=chunk_tokens,
        )

    everywhere = model.partitioning.sharding()
    return jax.jit(read, out_shardings=everywhere)
