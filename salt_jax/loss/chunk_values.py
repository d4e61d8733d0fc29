"""What the loss knows of each token of a chunk, from its logits.

Dimensions: V vocabulary, C tokens of a chunk, 1 a broadcast dimension. Inside
`shard_map`, V is the device's part of the vocabulary. The order of C and V is that of
`ChunkLogits`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from salt_jax.loss.chunk_logits import ChunkLogits
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


class _Tops(NamedTuple):
    """Each token's largest logit."""

    student_C1: jax.Array  # Over all rows of its embedding.
    kd_student_C1: jax.Array  # In KD, where padding may be masked.
    teacher_C1: jax.Array | None = None  # None without a teacher.
    target_C1: jax.Array | None = None  # Not the largest: the teacher's of the target.


class _Shifted(NamedTuple):
    """Logits less each token's largest, and their exponentials."""

    shifted_CV: jax.Array
    exp_CV: jax.Array


@dataclasses.dataclass(frozen=True)
class ChunkReader:
    """Reads values and distributions from the logits of a chunk."""

    logits: ChunkLogits
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
        logits_CV = self.logits.logits(student)
        teacher_CV = None if teacher is None else self.logits.logits(teacher)
        values, softmaxes = self._read(logits_CV, teacher_CV, targets_C)
        read = Read(student, targets_C, logits_CV, teacher_CV, softmaxes)
        return self.logits.squeezed(values), read

    def gradient(
        self, read: Read, weights: BlendWeights, gradient_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the device's part of gradient_CD, and `gradient_VD` plus the chunk's.

        In float32: if the student is nearly certain, p - 1 cancels to nothing in
        bfloat16. A TPU rounds the factors of a product to bfloat16, but only after the
        subtraction, so the difference keeps its significant digits.
        """
        student = read.student
        columns = lambda x_C1: self.logits.column(x_C1[:, 0])
        gradient_CD, added_VD = self.logits.products(
            self._dlogits(read, jax.tree.map(columns, weights)),
            student.hidden_BLD.astype(jnp.float32),
            student.embedding_VD.astype(jnp.float32),
        )
        return gradient_CD, gradient_VD + added_VD

    def _dlogits(self, read: Read, weights: BlendWeights) -> jax.Array:
        """Returns the gradient by the logits before their soft cap."""
        logits_CV = read.logits_CV
        p, soft, kd_p = read.softmaxes
        is_target_CV = self.logits.is_target(logits_CV, read.targets_C)
        p_CV = p.times(weights.p_C1, logits_CV)
        dlogits_CV = p_CV - jnp.where(is_target_CV, weights.target_C1, 0.0)
        if soft is not None:
            assert weights.soft_C1 is not None and read.teacher_CV is not None
            student_CV, teacher_CV = self._masked(logits_CV, read.teacher_CV)
            if kd_p is not None:
                dlogits_CV += kd_p.times(weights.soft_C1, student_CV)
            dlogits_CV -= soft.times(weights.soft_C1, teacher_CV, self.temperature)
        if (softcap := read.student.softcap) is not None:
            dlogits_CV *= 1.0 - jnp.square(logits_CV / softcap)
        return dlogits_CV

    def _read(self, student_CV, teacher_CV, targets_C):
        """Returns values_C1, and the distributions."""
        logits = self.logits
        tops = self._tops(student_CV, teacher_CV, targets_C)
        read_sums = functools.partial(self._sums, tops, self._end(student_CV))
        sums = logits.summed(read_sums, (student_CV, teacher_CV))
        sums |= {"target": logits.target_share(student_CV, targets_C)}
        if teacher_CV is not None:
            sums |= {"teacher_target": logits.target_share(teacher_CV, targets_C)}
        sums = logits.shards.sum(sums)
        log_p = jnp.log(sums["p"])
        softmaxes = Softmaxes(Softmax(tops.student_C1, sums["p"]))
        if teacher_CV is None:
            values = {"ce": log_p + (tops.student_C1 - sums["target"])}
        else:
            values = values_of(sums, tops.student_C1, tops.teacher_C1)
            soft = Softmax(tops.teacher_C1, sums["soft"])
            softmaxes = softmaxes._replace(soft=soft)
        if "kd_p" in sums:
            kd_p = Softmax(tops.kd_student_C1, sums["kd_p"])
            softmaxes = softmaxes._replace(kd_p=kd_p)
        if self.with_log_z:
            values |= {"log_z": log_p + tops.student_C1}
        return values, softmaxes

    def _tops(self, student_CV, teacher_CV, targets_C):
        largest = self.logits.largest
        student_C1 = kd_student_C1 = largest(student_CV)
        if teacher_CV is None:
            return _Tops(student_C1, kd_student_C1)
        if self.num_real is not None:
            student_CV, teacher_CV = self._masked(student_CV, teacher_CV)
            kd_student_C1 = largest(student_CV)
        if not self.with_rank:
            return _Tops(student_C1, kd_student_C1, largest(teacher_CV))
        # The target's logit is known before the sums, so that its rank is one of them.
        both = self.logits.largest_and_target(teacher_CV, targets_C)
        return _Tops(student_C1, kd_student_C1, *both)

    def _sums(self, tops, end, first, student_CV, teacher_CV):
        """Returns sums over words from the device's `first` on."""
        logits = self.logits
        student = kd_student = _shifted(student_CV, tops.student_C1)
        sums = {"p": logits.sum(student.exp_CV)}
        if teacher_CV is None:
            return sums
        if end is not None:
            student_CV = logits.without_padding(student_CV, end, first)
            teacher_CV = logits.without_padding(teacher_CV, end, first)
            kd_student = _shifted(student_CV, tops.kd_student_C1)
            sums |= {"kd_p": logits.sum(kd_student.exp_CV)}
        teacher = _shifted(teacher_CV, tops.teacher_C1)
        soft_CV = teacher.exp_CV
        if self.temperature != 1.0:
            soft_CV = jnp.exp(teacher.shifted_CV / self.temperature)
        # Compared unshifted: XLA may fuse the softcap's product into the
        # subtraction, and then the largest logit minus itself is not exactly 0.
        is_top_CV = student_CV == tops.kd_student_C1
        both_top_CV = is_top_CV & (teacher_CV == tops.teacher_C1)
        q_dot_CV = teacher.exp_CV * (teacher.shifted_CV - kd_student.shifted_CV)
        sums |= {
            "q": logits.sum(teacher.exp_CV),
            "soft": logits.sum(soft_CV),
            "soft_dot": logits.sum(soft_CV * kd_student.shifted_CV),
            "q_dot": logits.sum(q_dot_CV),
            "both_top": logits.sum(both_top_CV.astype(jnp.float32)),
        }
        if tops.target_C1 is not None:
            is_above_CV = teacher_CV > tops.target_C1
            sums |= {"above": logits.sum(is_above_CV.astype(jnp.float32))}
        return sums

    def _end(self, like_CV: jax.Array) -> jax.Array | None:
        """Returns the device's first id of padding; None: none is masked."""
        if self.num_real is None:
            return None
        return self.logits.end(self.num_real, like_CV.shape[self.logits.axis])

    def _masked(self, *logits: jax.Array) -> tuple[jax.Array, ...]:
        """Returns logits without padding, if it is masked."""
        if (end := self._end(logits[0])) is None:
            return logits
        return tuple(self.logits.without_padding(x_CV, end) for x_CV in logits)


def _shifted(logits_CV: jax.Array, max_C1: jax.Array) -> _Shifted:
    shifted_CV = logits_CV - max_C1
    return _Shifted(shifted_CV, jnp.exp(shifted_CV))


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
