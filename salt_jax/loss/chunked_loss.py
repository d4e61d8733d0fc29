"""The SALT loss in chunks of tokens, with the gradient computed in the forward pass.

`losses.py` has the public functions and the formula.

Dimensions: B batch, L length, D embed, V vocabulary, C tokens of a chunk, 1 a broadcast
dimension. Inside `shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.model.unembedding import Unembedding

Values = dict[str, jax.Array]  # Per token, by the name of the metric.


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
        run = chunks.shards.on_devices(
            functools.partial(self._on_device, with_gradient=with_gradient),
            (
                student_specs,
                chunks.teacher_specs(teacher),
                chunks.tokens_spec,
                PartitionSpec(),
            ),
            (chunks.tokens_spec, student_specs if with_gradient else None),
        )
        return run(student, teacher, tokens, kd_weight)

    def _on_device(self, student, teacher, tokens, kd_weight, *, with_gradient):
        chunks, shards = self.chunks, self.chunks.shards
        student = chunks.gather_embedding(student)

        def step(gradient_VD, chunk):
            student_CD, teacher_CD, tokens = shards.share(chunk)
            logits_CV = chunks.logits(student, student_CD)
            teacher_CV = None
            if teacher is not None:
                teacher_CV = chunks.logits(teacher, teacher_CD)
            values, p, soft = self._read(logits_CV, teacher_CV, tokens.targets_BL)
            if not with_gradient:
                return None, (shards.own(values), None)
            dlogits_CV = self._dlogits(p, soft, tokens, kd_weight)
            if student.softcap is not None:
                dlogits_CV *= 1.0 - jnp.square(logits_CV / student.softcap)
            # In float32: if the student is nearly certain, p - 1 cancels to nothing in
            # bfloat16. A TPU rounds the factors of a product to bfloat16, but only
            # after the subtraction, so the difference keeps its significant digits.
            gradient_CD = dlogits_CV @ student.embedding_VD.astype(jnp.float32)
            gradient_CD = shards.sum_to_own(gradient_CD)
            gradient_VD += dlogits_CV.T @ student_CD.astype(jnp.float32)
            gradient_CD = gradient_CD.astype(student_CD.dtype)
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

    def _dlogits(self, p, soft, tokens, kd_weight):
        """Returns the gradient of the weighted loss by the student's logits.

        It is weight * (p - (1 - w) * onehot(target) - w * soft), with w = kd_weight.
        """
        weights_C1 = tokens.weights_BL[:, None]
        if soft is None:
            kd_weight = 0.0
        hard_C1 = (1.0 - kd_weight) * weights_C1
        is_target_CV = self.chunks.is_target(p.exp_CV, tokens.targets_BL)
        dlogits_CV = p.times(weights_C1) - jnp.where(is_target_CV, hard_C1, 0.0)
        if soft is None:
            return dlogits_CV
        return dlogits_CV - soft.times(kd_weight * weights_C1)

    def _read(self, student_CV, teacher_CV, targets_C):
        """Returns values_C by name, the student's p, and the teacher's soft targets."""
        chunks = self.chunks
        student_max_C1 = chunks.largest(student_CV)
        shifted_CV = student_CV - student_max_C1
        p_CV = jnp.exp(shifted_CV)
        sums = {"p": _sum(p_CV), "target": chunks.target_share(student_CV, targets_C)}
        if teacher_CV is not None:
            teacher_max_C1 = chunks.largest(teacher_CV)
            teacher_shifted_CV = teacher_CV - teacher_max_C1
            q_CV = jnp.exp(teacher_shifted_CV)
            soft_CV = q_CV
            if self.temperature != 1.0:
                soft_CV = jnp.exp(teacher_shifted_CV / self.temperature)
            # Compared unshifted: XLA may fuse the softcap's product into the
            # subtraction, and then the largest logit minus itself is not exactly 0.
            both_top_CV = (student_CV == student_max_C1) & (
                teacher_CV == teacher_max_C1
            )
            sums |= {
                "q": _sum(q_CV),
                "soft": _sum(soft_CV),
                "soft_dot": _sum(soft_CV * shifted_CV),
                "q_dot": _sum(q_CV * (teacher_shifted_CV - shifted_CV)),
                "teacher_target": chunks.target_share(teacher_CV, targets_C),
                "both_top": _sum(both_top_CV.astype(jnp.float32)),
            }
        sums = chunks.shards.sum(sums)
        p = _Softmax(p_CV, sums["p"])
        log_p = jnp.log(sums["p"])  # Without the shift by the maximum; so is log_q.
        values = {"ce": log_p + (student_max_C1 - sums["target"])}
        if teacher_CV is None:
            return _squeezed(values), p, None
        log_q = jnp.log(sums["q"])
        values |= {
            "kd": log_p - sums["soft_dot"] / sums["soft"],
            "kl": sums["q_dot"] / sums["q"] - log_q + log_p,
            "teacher_ce": log_q + (teacher_max_C1 - sums["teacher_target"]),
            "agreement": sums["both_top"] > 0,
            "teacher_wrong": sums["teacher_target"] < teacher_max_C1,
        }
        return _squeezed(values), p, _Softmax(soft_CV, sums["soft"])


@flax.struct.dataclass
class _Softmax:
    """A softmax before the division by its sum."""

    exp_CV: jax.Array
    sum_C1: jax.Array

    def times(self, factor_C1: jax.Array) -> jax.Array:
        return self.exp_CV * (factor_C1 / self.sum_C1)


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
    """Returns (1 - w) * CE + w * KD for each token; CE without a teacher."""
    if "kd" not in values:
        return values["ce"]
    return (1.0 - kd_weight) * values["ce"] + kd_weight * values["kd"]


def _weighted_sum(values, tokens, kd_weight):
    return jnp.sum(blend(values, kd_weight) * tokens.weights_BL)


def _sum(x_CV: jax.Array) -> jax.Array:
    return jnp.sum(x_CV, axis=-1, keepdims=True)


def _squeezed(values: Values) -> Values:
    return {name: x_C1[:, 0] for name, x_C1 in values.items()}
