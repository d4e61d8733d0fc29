"""What the loss knows of each token of a chunk, from its logits.

Dimensions: V vocabulary, C tokens of a chunk, 1 a broadcast dimension. Inside
`shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from salt_jax.loss import cache_rows
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.model.unembedding import Unembedding

Values = dict[str, jax.Array]  # Per token, by the name of the metric.


@flax.struct.dataclass
class Softmax:
    """What makes probabilities of logits."""

    max_C1: jax.Array  # The largest logit.
    sum_C1: jax.Array  # Of exponentials of the logits less the largest.

    def times(
        self, factor_C1: jax.Array, logits_CV: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Returns the probabilities, each token's times its factor."""
        shifted_CV = logits_CV - self.max_C1
        if temperature != 1.0:
            shifted_CV /= temperature
        return jnp.exp(shifted_CV) * (factor_C1 / self.sum_C1)


class Softmaxes(NamedTuple):
    """The distributions that the gradient of a chunk is made of."""

    p: Softmax  # The student's, over all rows of its embedding.
    soft: Softmax | None = None  # The teacher's soft labels; None without a teacher.
    kd_p: Softmax | None = None  # The student's in KD, if padding is masked there.


class BlendWeights(NamedTuple):
    """What each token's distributions weigh in the gradient by its logits.

    The gradient is p * student - target * onehot(target) - soft * (soft labels); if
    padding is masked in KD, plus soft * (the student's distribution without padding).
    """

    p_C1: jax.Array
    target_C1: jax.Array
    soft_C1: jax.Array | None  # None without a teacher.


class Read(NamedTuple):
    """What the gradient of a chunk needs."""

    student: Unembedding  # Its hidden states are the chunk's, [C, D].
    targets_C: jax.Array
    logits_CV: jax.Array
    teacher_CV: jax.Array | None
    softmaxes: Softmaxes


class _Shifted(NamedTuple):
    """Logits less each token's largest, and their exponentials."""

    max_C1: jax.Array
    shifted_CV: jax.Array
    exp_CV: jax.Array


@dataclasses.dataclass(frozen=True)
class ChunkReader:
    """Reads values and distributions from the logits of a chunk."""

    chunks: TokenChunks
    temperature: float
    num_real: int | None  # Ids from here on are padding, masked; None: none are.
    with_rank: bool  # Whether to return "teacher_rank".
    with_log_z: bool = False  # Whether to return "log_z".

    def read(
        self, student: Unembedding, teacher: Unembedding | None, targets_C: jax.Array
    ) -> tuple[Values, Read]:
        """Returns values_C by name, and what the gradient needs.

        The hidden states of the models are the chunk's, [C, D].
        """
        logits_CV = self.chunks.logits(student, student.hidden_BLD)
        teacher_CV = None
        if teacher is not None:
            teacher_CV = self.chunks.logits(teacher, teacher.hidden_BLD)
        values, softmaxes = cache_rows.map_rows(
            self.chunks, self._read, (logits_CV, teacher_CV, targets_C)
        )
        return values, Read(student, targets_C, logits_CV, teacher_CV, softmaxes)

    def gradient(
        self, read: Read, weights: BlendWeights, gradient_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the device's part of gradient_CD, and `gradient_VD` plus the chunk's.

        In float32: if the student is nearly certain, p - 1 cancels to nothing in
        bfloat16. A TPU rounds the factors of a product to bfloat16, but only after the
        subtraction, so the difference keeps its significant digits.
        """
        student = read.student
        dlogits_CV = cache_rows.map_rows(
            self.chunks,
            functools.partial(self._dlogits, student.softcap),
            (read.logits_CV, read.teacher_CV, read.targets_C, read.softmaxes, weights),
        )
        gradient_CD = dlogits_CV @ student.embedding_VD.astype(jnp.float32)
        gradient_VD += dlogits_CV.T @ student.hidden_BLD.astype(jnp.float32)
        return gradient_CD, gradient_VD

    def _dlogits(self, softcap, logits_CV, teacher_CV, targets_C, softmaxes, weights):
        """Returns the gradient by the logits before their soft cap."""
        p, soft, kd_p = softmaxes
        is_target_CV = self.chunks.is_target(logits_CV, targets_C)
        p_CV = p.times(weights.p_C1, logits_CV)
        dlogits_CV = p_CV - jnp.where(is_target_CV, weights.target_C1, 0.0)
        if soft is not None:
            student_CV = logits_CV
            if self.num_real is not None:
                student_CV = self.chunks.without_padding(student_CV, self.num_real)
                teacher_CV = self.chunks.without_padding(teacher_CV, self.num_real)
            if kd_p is not None:
                dlogits_CV += kd_p.times(weights.soft_C1, student_CV)
            dlogits_CV -= soft.times(weights.soft_C1, teacher_CV, self.temperature)
        if softcap is not None:
            dlogits_CV *= 1.0 - jnp.square(logits_CV / softcap)
        return dlogits_CV

    def _read(self, student_CV, teacher_CV, targets_C):
        chunks = self.chunks
        student = _shifted(student_CV, chunks.largest(student_CV))
        sums = {
            "p": _sum(student.exp_CV),
            "target": chunks.target_share(student_CV, targets_C),
        }
        if teacher_CV is None:
            sums = chunks.shards.sum(sums)
            log_p = jnp.log(sums["p"])
            values = {"ce": log_p + (student.max_C1 - sums["target"])}
            softmaxes = Softmaxes(Softmax(student.max_C1, sums["p"]))
        else:
            values, softmaxes = self._read_both(
                student, sums, student_CV, teacher_CV, targets_C
            )
        if self.with_log_z:
            values |= {"log_z": jnp.log(softmaxes.p.sum_C1) + student.max_C1}
        return squeezed(values), softmaxes

    def _read_both(self, student, sums, student_CV, teacher_CV, targets_C):
        chunks, kd_student = self.chunks, student
        if self.num_real is not None:
            student_CV = chunks.without_padding(student_CV, self.num_real)
            teacher_CV = chunks.without_padding(teacher_CV, self.num_real)
            kd_student = _shifted(student_CV, chunks.largest(student_CV))
            sums |= {"kd_p": _sum(kd_student.exp_CV)}
        teacher, target_C1 = self._teacher(teacher_CV, targets_C)
        soft_CV = teacher.exp_CV
        if self.temperature != 1.0:
            soft_CV = jnp.exp(teacher.shifted_CV / self.temperature)
        # Compared unshifted: XLA may fuse the softcap's product into the
        # subtraction, and then the largest logit minus itself is not exactly 0.
        both_top_CV = (student_CV == kd_student.max_C1) & (teacher_CV == teacher.max_C1)
        sums |= {
            "q": _sum(teacher.exp_CV),
            "soft": _sum(soft_CV),
            "soft_dot": _sum(soft_CV * kd_student.shifted_CV),
            "q_dot": _sum(
                teacher.exp_CV * (teacher.shifted_CV - kd_student.shifted_CV)
            ),
            "teacher_target": chunks.target_share(teacher_CV, targets_C),
            "both_top": _sum(both_top_CV.astype(jnp.float32)),
        }
        if target_C1 is not None:
            sums |= {"above": _sum((teacher_CV > target_C1).astype(jnp.float32))}
        sums = chunks.shards.sum(sums)
        kd_p = None
        if self.num_real is not None:
            kd_p = Softmax(kd_student.max_C1, sums["kd_p"])
        softmaxes = Softmaxes(
            Softmax(student.max_C1, sums["p"]),
            Softmax(teacher.max_C1, sums["soft"]),
            kd_p,
        )
        return values_of(sums, student.max_C1, teacher.max_C1), softmaxes

    def _teacher(self, teacher_CV, targets_C):
        """Returns the shifted logits, and the target's logit if its rank is asked."""
        if not self.with_rank:
            return _shifted(teacher_CV, self.chunks.largest(teacher_CV)), None
        # The target's logit is known before the sums, so that its rank is one of them.
        both_C2 = self.chunks.largest_and_target(teacher_CV, targets_C)
        return _shifted(teacher_CV, both_C2[:, :1]), both_C2[:, 1:]


def _shifted(logits_CV: jax.Array, max_C1: jax.Array) -> _Shifted:
    shifted_CV = logits_CV - max_C1
    return _Shifted(max_C1, shifted_CV, jnp.exp(shifted_CV))


def values_of(sums: Values, student_max_C1: Any, teacher_max_C1: Any) -> Values:
    """Returns the values_C1 that sums over the vocabulary give."""
    log_p = jnp.log(sums["p"])  # Without the shift by the maximum; so are the others.
    values = {"ce": log_p + (student_max_C1 - sums["target"])}
    log_q = jnp.log(sums["q"])
    log_kd_p = jnp.log(sums["kd_p"]) if "kd_p" in sums else log_p
    values |= {
        "kd": log_kd_p - sums["soft_dot"] / sums["soft"],
        "kl": sums["q_dot"] / sums["q"] - log_q + log_kd_p,
        "teacher_ce": log_q + (teacher_max_C1 - sums["teacher_target"]),
        "agreement": sums["both_top"] > 0,
        "teacher_wrong": sums["teacher_target"] < teacher_max_C1,
    }
    if "above" in sums:
        values |= {"teacher_rank": sums["above"].astype(jnp.int32)}
    return values


def _sum(x_CV: jax.Array) -> jax.Array:
    return jnp.sum(x_CV, axis=-1, keepdims=True)


def squeezed(values: Values) -> Values:
    """Returns values_C of values_C1."""
    return {name: x_C1[:, 0] for name, x_C1 in values.items()}
