"""What the loss knows of each token of a chunk, by kernels for TPUs.

The same as in `chunk_values`, to float32 rounding. Logits go to memory once, if a
gradient needs them, and come back once.

Dimensions: V vocabulary, D embed, C tokens of a chunk, 1 a broadcast dimension. Inside
`shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from salt_jax.loss.chunk_values import BlendWeights, ChunkReader, Values, values_of
from salt_jax.loss.gradient_kernel import Factors, GradientKernel
from salt_jax.loss.kernel_blocks import KernelBlocks
from salt_jax.loss.lane_statistics import LaneStatistics, Statistics
from salt_jax.loss.statistics_kernel import StatisticsKernel
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.unembedding import Unembedding


class Read(NamedTuple):
    """What the gradient of a chunk needs."""

    student: Unembedding  # Its hidden states are the chunk's, [C, D].
    targets_C: jax.Array
    logits: Sequence[jax.Array]  # [C, V], of the student and perhaps its teacher.
    found: Statistics  # [C, 1].


@dataclasses.dataclass(frozen=True)
class KernelReader:
    """Reads values from a chunk, and multiplies with its gradient."""

    plain: ChunkReader  # What is read.
    blocks: KernelBlocks
    with_gradient: bool

    def read(
        self, student: Unembedding, teacher: Unembedding | None, targets_C: jax.Array
    ) -> tuple[Values, Read]:
        """Returns values_C by name, and what the gradient needs.

        The hidden states of the models are the chunk's, [C, D].
        """
        plain = self.plain
        statistics = LaneStatistics(
            with_teacher=teacher is not None,
            temperature=plain.temperature,
            with_padding=plain.num_real is not None,
            with_rank=plain.with_rank and teacher is not None,
        )
        models = [student] if teacher is None else [student, teacher]
        found, logits = statistics_of(
            plain.logits.shards,
            StatisticsKernel(statistics, self.blocks, self.with_gradient),
            models,
            targets_C,
            plain.num_real,
        )
        if teacher is None:
            ce_C1 = jnp.log(found["p"]) + (found["top"] - found["target"])
            values = {"ce": ce_C1}
        else:
            if not statistics.is_warm:
                found["soft"] = found["q"]
            values = values_of(found, found["top"], found["teacher_top"])
        if plain.with_log_z:
            values |= {"log_z": jnp.log(found["p"]) + found["top"]}
        return plain.logits.squeezed(values), Read(student, targets_C, logits, found)

    def gradient(
        self, read: Read, weights: BlendWeights, gradient_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the device's part of gradient_CD, and `gradient_VD` plus the chunk's.

        The gradient by the logits is rounded to the embedding's dtype once it is whole.
        """
        plain, found, soft_C1 = self.plain, read.found, weights.soft_C1
        factors = Factors(found["top"], weights.p_C1 / found["p"], weights.target_C1)
        if soft_C1 is not None:
            factors = dataclasses.replace(
                factors,
                teacher_top=found["teacher_top"],
                soft=soft_C1 / found["soft"],
            )
            if plain.num_real is not None:
                kd_p = soft_C1 / found["kd_p"]
                factors = dataclasses.replace(
                    factors, kd_top=found["kd_top"], kd_p=kd_p
                )
        kernel = GradientKernel(
            self.blocks,
            with_teacher=soft_C1 is not None,
            temperature=plain.temperature,
            with_padding=plain.num_real is not None,
            softcap=read.student.softcap,
        )
        size_V = read.logits[0].shape[1]
        return kernel.run(
            read.student,
            read.logits,
            plain.logits.shards.local(read.targets_C, size_V),
            _end(plain.logits.shards, plain.num_real, size_V),
            factors,
            gradient_VD,
        )


def statistics_of(
    shards: VocabShards,
    kernel: StatisticsKernel,
    models: Sequence[Unembedding],
    targets_C: jax.Array,
    num_real: int | None,
) -> tuple[Statistics, Sequence[jax.Array]]:
    """Returns statistics_C1 over the whole vocabulary, and the logits_CV if kept.

    A target outside the vocabulary has a logit that is not a number.
    """
    size_V = models[0].embedding_VD.shape[0]
    local_C = shards.local(targets_C, size_V)
    target_C = None
    if kernel.statistics.with_rank:
        target_C = _target_logit(shards, models[-1], local_C)
    end = _end(shards, num_real, size_V)
    lanes, logits = kernel.run(models, local_C, end, target_C)
    found = kernel.statistics.merged(lanes, shards)
    whole = size_V * shards.num_shards
    is_token_C1 = ((targets_C >= 0) & (targets_C < whole))[:, None]
    for name in {"target", "teacher_target"} & found.keys():
        found[name] = jnp.where(is_token_C1, found[name], jnp.nan)
    return found, logits


def _target_logit(shards: VocabShards, model: Unembedding, local_C: Any) -> jax.Array:
    """Returns the logit of each target; -inf outside the vocabulary.

    The kernel needs it before it multiplies, so that the target's rank is a sum. It may
    differ in the last bit from the kernel's, which does not count the target itself.
    """
    size = model.embedding_VD.shape[0]
    rows_CD = jnp.take(model.embedding_VD, jnp.clip(local_C, 0, size - 1), axis=0)
    x_C = jnp.einsum(
        "CD,CD->C", model.hidden_BLD, rows_CD, preferred_element_type=jnp.float32
    )
    if model.softcap is not None:
        x_C = model.softcap * jnp.tanh(x_C / model.softcap)
    is_here_C = (local_C >= 0) & (local_C < size)
    return shards.largest(jnp.where(is_here_C, x_C, -jnp.inf))


def _end(shards: VocabShards, num_real: int | None, size_V: int) -> jax.Array | int:
    """Returns the first id that is padding, relative to the device's first id."""
    if num_real is None:
        return size_V
    return shards.local(jnp.int32(num_real), size_V)
