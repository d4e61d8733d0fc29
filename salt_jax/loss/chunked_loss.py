"""The SALT loss in chunks of tokens, with the gradient computed in the forward pass.

`losses.py` has the public functions and the formula.

Dimensions: B batch, L length, D embed, V vocabulary, C tokens of a chunk, 1 a broadcast
dimension. Inside `shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from salt_jax.loss.chunk_logits import ChunkLogits
from salt_jax.loss.chunk_values import BlendWeights, ChunkReader, Values
from salt_jax.loss.gates import EveryToken, Gate, strength
from salt_jax.loss.kernel_blocks import KernelBlocks
from salt_jax.loss.kernel_reader import KernelReader
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.model.unembedding import Unembedding


@flax.struct.dataclass
class Tokens:
    """The target of each token, and its weight in the loss."""

    targets_BL: jax.Array
    weights_BL: jax.Array  # float32.


@dataclasses.dataclass(frozen=True)
class ChunkedBlend:
    """The static arguments of the loss: the same for all chunks and all steps."""

    chunks: TokenChunks
    temperature: float
    gate: Gate = EveryToken()
    num_real: int | None = None  # Ids from here on are padding, masked in KD.
    z_loss: float = 0.0
    blocks: KernelBlocks | None = None  # Of the kernels; None: plain JAX operations.

    def run(
        self,
        student: Unembedding,
        teacher: Unembedding | None,
        tokens: Tokens,
        kd_weight: jax.Array,
        *,
        with_gradient: bool,
    ) -> tuple[Values, Unembedding | None]:
        """Returns values_BL, and the gradient of the weighted sum of their blend."""
        chunks = self.chunks
        student_specs = chunks.student_specs(student)
        if teacher is not None:
            embedding_VD = teacher.embedding_VD.astype(teacher.hidden_BLD.dtype)
            teacher = dataclasses.replace(teacher, embedding_VD=embedding_VD)
        reader = self._reader(student, with_gradient)
        run = chunks.shards.on_devices(
            functools.partial(self._on_device, reader, with_gradient),
            (
                student_specs,
                chunks.teacher_specs(teacher),
                chunks.tokens_spec,
                PartitionSpec(),
            ),
            (chunks.tokens_spec, student_specs if with_gradient else None),
        )
        return run(student, teacher, tokens, kd_weight)

    def _on_device(self, reader, with_gradient, student, teacher, tokens, kd_weight):
        chunks, shards = self.chunks, self.chunks.shards
        student = chunks.gather_embedding(student)

        def step(gradient_VD, chunk):
            student_CD, teacher_CD, tokens = shards.share(chunk)
            values, read = reader.read(
                student.replace(hidden_BLD=student_CD),
                None if teacher is None else teacher.replace(hidden_BLD=teacher_CD),
                tokens.targets_BL,
            )
            values, slope_C1 = self._with_z_loss(values)
            values, weight_C1 = self._gated(values, tokens, kd_weight)
            if not with_gradient:
                return None, (shards.own(values), None)
            weights = self._weights(tokens, weight_C1, slope_C1, teacher is not None)
            gradient_CD, gradient_VD = reader.gradient(read, weights, gradient_VD)
            gradient_CD = shards.sum_to_own(gradient_CD).astype(student_CD.dtype)
            return gradient_VD, (shards.own(values), gradient_CD)

        zeros_VD = None
        if with_gradient:
            zeros_VD = jnp.zeros(student.embedding_VD.shape, jnp.float32)
        teacher_BLD = None if teacher is None else teacher.hidden_BLD
        gradient_VD, (values, gradient_BLD) = chunks.scan(
            step, zeros_VD, (student.hidden_BLD, teacher_BLD, tokens)
        )
        if not with_gradient:
            return values, None
        gradient_VD = shards.scatter_gradient(gradient_VD)
        return values, Unembedding(gradient_BLD, gradient_VD, student.softcap)

    def _reader(self, student: Unembedding, with_gradient: bool) -> Any:
        logits = ChunkLogits.of(self.chunks, student)
        if self.blocks is not None:
            logits = ChunkLogits(self.chunks.shards)  # The kernels' order.
        reader = ChunkReader(
            logits,
            self.temperature,
            self.num_real,
            self.gate.needs_rank,
            with_log_z=bool(self.z_loss),
        )
        if self.blocks is None:
            return reader
        return KernelReader(reader, self.blocks, with_gradient)

    def _with_z_loss(self, values):
        """Returns the values, "z_loss" among them, and its derivative by log Z."""
        if not self.z_loss:
            return values, None
        log_z_C = values.pop("log_z")
        z_loss_C = self.z_loss * jnp.square(log_z_C)
        return values | {"z_loss": z_loss_C}, 2.0 * self.z_loss * log_z_C[:, None]

    def _gated(self, values, tokens, kd_weight):
        """Returns the values, "distilled" among them, and kd_weight for each token."""
        if self.gate == EveryToken() or "kd" not in values:
            return values, kd_weight
        g_C = strength(self.gate, values, tokens.weights_BL)
        values.pop("teacher_rank", None)
        return values | {"distilled": g_C}, kd_weight * g_C[:, None]

    def _weights(
        self, tokens: Tokens, kd_weight: Any, slope_C1: Any, has_teacher: bool
    ) -> BlendWeights:
        """Returns what weighs the distributions in the gradient by the logits.

        It is weight * (p - (1 - w) * onehot(target) - w * soft), with w = kd_weight, a
        scalar or one for each token. If padding is masked, w of p is p without it.
        The z-loss adds slope * p, because p is the gradient of log Z.
        """
        weights_C1 = tokens.weights_BL[:, None]
        if not has_teacher:
            kd_weight = 0.0
        hard_C1 = (1.0 - kd_weight) * weights_C1
        p_C1 = weights_C1 if self.num_real is None else hard_C1
        if slope_C1 is not None:
            p_C1 += slope_C1 * weights_C1
        soft_C1 = kd_weight * weights_C1 if has_teacher else None
        return BlendWeights(p_C1, hard_C1, soft_C1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed_loss(
    loss: ChunkedBlend,
    student: Unembedding,
    teacher: Unembedding | None,
    tokens: Tokens,
    kd_weight: jax.Array,
) -> tuple[jax.Array, Values]:
    """Returns the weighted sum of the loss, and values_BL by name.

    The sum has a gradient by the student. Everything else has none.
    """
    values, _ = loss.run(student, teacher, tokens, kd_weight, with_gradient=False)
    return _weighted_sum(values, tokens, kd_weight), values


def _forward(loss, student, teacher, tokens, kd_weight):
    values, gradient = loss.run(student, teacher, tokens, kd_weight, with_gradient=True)
    embedding_VD = gradient.embedding_VD.astype(student.embedding_VD.dtype)
    gradient = dataclasses.replace(gradient, embedding_VD=embedding_VD)
    return (_weighted_sum(values, tokens, kd_weight), values), gradient


def _backward(loss, gradient, cotangents):
    scale = cotangents[0]
    scaled = lambda x: (x.astype(jnp.float32) * scale).astype(x.dtype)
    return jax.tree.map(scaled, gradient), None, None, None


summed_loss.defvjp(_forward, _backward)


def blend(values: Values, kd_weight: jax.Array | float) -> jax.Array:
    """Returns (1 - w g) * CE + w g * KD for each token; CE without a teacher.

    g is "distilled" among the values, and 1 if it is not there. "z_loss" is added.
    """
    loss = values["ce"]
    if "kd" in values:
        if "distilled" in values:
            kd_weight = kd_weight * values["distilled"]
        loss = (1.0 - kd_weight) * values["ce"] + kd_weight * values["kd"]
    return loss + values["z_loss"] if "z_loss" in values else loss


def _weighted_sum(values, tokens, kd_weight):
    return jnp.sum(blend(values, kd_weight) * tokens.weights_BL)
