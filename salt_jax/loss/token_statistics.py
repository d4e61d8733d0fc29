"""Cross-entropy, rank and entropy of each target, without a gradient.

Dimensions: B batch, L length, D embed, V vocabulary, C tokens of a chunk, 1 a broadcast
dimension. Inside `shard_map`, B, L and V are the device's part.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from salt_jax.loss import padded_vocabulary
from salt_jax.loss.chunk_logits import ChunkLogits
from salt_jax.loss.kernel_blocks import KernelBlocks
from salt_jax.loss.kernel_choice import LossKernel
from salt_jax.loss.kernel_reader import statistics_of
from salt_jax.loss.lane_statistics import LaneStatistics
from salt_jax.loss.statistics_kernel import StatisticsKernel
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.unembedding import Unembedding


@flax.struct.dataclass
class TokenStatistics:
    """Per-target cross-entropy, rank and entropy; sharded as the targets are."""

    ce_BL: jax.Array  # float32, nats.
    rank_BL: jax.Array  # int32: how many logits are greater than the target's.
    entropy_BL: jax.Array | None  # float32, nats: of the predicted distribution.


def chunked_token_statistics(
    model: Unembedding,
    targets_BL: jax.Array,
    *,
    partitioning: Partitioning,
    chunk_tokens: int,
    real_vocab_size: int | None = None,
    kernel: str = "auto",
) -> TokenStatistics:
    """Returns per-target cross-entropy, rank and entropy, without a gradient.

    Arguments are those of `losses.chunked_salt_loss`. With `real_vocab_size`, rows of
    padding have no probability, and a target that is one is not a number.

    Raises:
      ValueError: a dimension does not divide over the mesh, `chunk_tokens` is not
        positive, or `real_vocab_size` is not from 1 to the tokens of the model.
    """
    chunks = TokenChunks(partitioning, chunk_tokens)
    chunks.check(model, targets_BL)
    rows = model.embedding_VD.shape[0]
    padded_vocabulary.check(rows, rows, real_vocab_size)
    targets_BL = padded_vocabulary.real_targets(targets_BL, real_vocab_size)
    num_real = None if real_vocab_size == rows else real_vocab_size
    blocks = LossKernel.of(kernel, chunks, model).blocks
    model = jax.lax.stop_gradient(model)
    return _statistics(chunks, model, targets_BL, num_real, blocks)


def _statistics(
    chunks: TokenChunks,
    model: Unembedding,
    targets_BL: jax.Array,
    num_real: int | None = None,
    blocks: KernelBlocks | None = None,
) -> TokenStatistics:
    """Returns per-target cross-entropy, rank and entropy of `model`.

    Args:
      chunks: The chunks.
      model: The model.
      targets_BL: The targets.
      num_real: Ids from here on have no probability; None: all have.
      blocks: Of the kernel, which writes no logits to memory; None: JAX operations.
    """

    def body(model, targets_BL):
        model = chunks.gather_embedding(model)

        def step(_, chunk):
            hidden_CD, targets_C = chunks.shards.share(chunk)
            own = model.replace(hidden_BLD=hidden_CD)
            if blocks is None:
                read = _read(chunks, own, targets_C, num_real)
            else:
                read = _read_by_kernel(chunks, own, targets_C, num_real, blocks)
            return None, chunks.shards.own(read)

        return chunks.scan(step, None, (model.hidden_BLD, targets_BL))[1]

    tokens = chunks.tokens_spec
    specs = chunks.student_specs(model), tokens
    run = chunks.shards.on_devices(body, specs, tokens)
    return run(model, targets_BL)


def _read(chunks, model, targets_C, num_real):
    logits = ChunkLogits(chunks.shards)
    logits_CV = logits.logits(model)
    if num_real is not None:
        end = logits.end(num_real, logits_CV.shape[1])
        logits_CV = logits.without_padding(logits_CV, end)
    max_C1 = logits.largest(logits_CV)
    sum_C1 = logits.sum(jnp.exp(logits_CV - max_C1))
    # The barrier keeps XLA from fusing both sums into one loop, which takes a
    # CPU three times as long.
    shifted_CV = logits_CV - jax.lax.optimization_barrier(max_C1)
    dot_C1 = logits.sum(jnp.exp(shifted_CV) * shifted_CV)
    share_C1 = logits.target_share(logits_CV, targets_C)
    sums = (sum_C1, dot_C1, share_C1)
    sum_C1, dot_C1, target_C1 = chunks.shards.sum(sums)
    above_C1 = logits.sum((logits_CV > target_C1).astype(jnp.int32))
    rank_C1 = chunks.shards.sum(above_C1)
    ce_C1 = jnp.log(sum_C1) + (max_C1 - target_C1)
    entropy_C1 = jnp.log(sum_C1) - dot_C1 / sum_C1
    return TokenStatistics(ce_C1[:, 0], rank_C1[:, 0], entropy_C1[:, 0])


def _read_by_kernel(chunks, model, targets_C, num_real, blocks):
    statistics = LaneStatistics(
        with_padding=num_real is not None, with_rank=True, with_entropy=True
    )
    kernel = StatisticsKernel(statistics, blocks, keeps_logits=False)
    found, _ = statistics_of(chunks.shards, kernel, [model], targets_C, num_real)
    log_p_C1 = jnp.log(found["p"])
    ce_C1 = log_p_C1 + (found["top"] - found["target"])
    entropy_C1 = log_p_C1 - found["p_dot"] / found["p"]
    rank_C1 = found["above"].astype(jnp.int32)
    return TokenStatistics(ce_C1[:, 0], rank_C1[:, 0], entropy_C1[:, 0])
