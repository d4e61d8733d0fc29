"""The SALT loss: dense on whole logits, and in chunks of tokens.

Dimensions: B batch, L length, V vocabulary, 1 a broadcast dimension.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from salt_jax.loss import chunked_loss, padded_vocabulary
from salt_jax.loss.chunked_loss import ChunkedBlend, Tokens
from salt_jax.loss.gates import EveryToken, Gate, strength
from salt_jax.loss.kernel_choice import LossKernel
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.unembedding import Unembedding


def salt_loss(
    student_logits_BLV: jax.Array,
    teacher_logits_BLV: jax.Array | None,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    kd_weight: jax.Array | float = 0.0,
    temperature: float = 1.0,
    gate: Gate = EveryToken(),
    real_vocab_size: int | None = None,
    z_loss: float = 0.0,
) -> dict[str, WeightedMean]:
    """Returns the blend of cross-entropy and distillation: (1 - w g) CE + w g KD.

    With p the student's distribution, CE = -log p(target) and
    KD = -sum_v softmax(teacher logits / temperature)(v) log p(v), in nats (SALT,
    arXiv 2410.18779); w is `kd_weight`, and g the gate's strength, without a gradient,
    1 by default. Stage two is this loss with `teacher_logits_BLV=None`.

    If rows are added to a vocabulary so that it divides over a mesh, the teacher may
    give these any logits. With `real_vocab_size` they have no probability in the
    teacher's distribution, at any temperature, nor in the student's where it is
    compared with the teacher's: KD, KL, the agreement, and what a gate reads of them.
    So these are what they would be without the rows, and both models may have other
    numbers of them. CE has all of the student's rows, because validation and stage two
    have: it is CE that teaches the student to leave them out, so not at w g = 1.

    `z_loss` * (log Z)^2 is added, with Z = sum_v exp(student logit of v) over all of
    its rows. It keeps log Z near 0, and so logits from drifting together, which a
    softmax does not see (PaLM, arXiv 2204.02311, section 5, with 1e-4; ST-MoE, arXiv
    2202.08906, section 3.3).

    This is the dense reference; training calls `chunked_salt_loss`.

    Args:
      student_logits_BLV: The student's logits.
      teacher_logits_BLV: The teacher's logits, or None.
      targets_BL: The next token at each position.
      weights_BL: The weight of each target; 0 for padding.
      kd_weight: w above, in [0, 1]. It may be traced, and so follow a schedule.
      temperature: Divides the teacher's logits; values below 1 sharpen them.
      gate: Which targets are distilled, and how strongly.
      real_vocab_size: The tokens of the vocabulary, without rows of padding; None: all.
      z_loss: The coefficient above; 0: nothing is added or computed.

    Returns:
      "loss" and "ce". With a teacher q also "kd", "kl" (KL(q || p) at temperature 1),
      "teacher_ce" (at temperature 1), "agreement" (1 where the argmaxes are equal) and
      "teacher_wrong" (1 where the target is not the teacher's argmax). With a gate
      other than `EveryToken` also "distilled", its strength. With a `z_loss` also
      "z_loss", what it adds. Only the total of "loss" has a gradient, and only by the
      student's logits.

    Raises:
      ValueError: the temperature is not positive, the vocabularies differ or are
        smaller than `real_vocab_size`, or the gate gives another shape than that of
        the targets.
    """
    _check_temperature(temperature)
    check_z_loss(z_loss)
    student_BLV = student_logits_BLV.astype(jnp.float32)
    weights_BL = jax.lax.stop_gradient(weights_BL.astype(jnp.float32))
    if teacher_logits_BLV is not None:
        targets_BL = padded_vocabulary.real_targets(targets_BL, real_vocab_size)
    values = {"ce": -_take(jax.nn.log_softmax(student_BLV), targets_BL)}
    if z_loss:
        log_z_BL = jax.nn.logsumexp(student_BLV, axis=-1)
        values |= {"z_loss": z_loss * jnp.square(log_z_BL)}
    if teacher_logits_BLV is not None:
        teacher_BLV = jax.lax.stop_gradient(teacher_logits_BLV.astype(jnp.float32))
        padded_vocabulary.check(
            student_BLV.shape[-1], teacher_BLV.shape[-1], real_vocab_size
        )
        real = slice(real_vocab_size)
        values |= _compared(
            student_BLV[..., real], teacher_BLV[..., real], targets_BL, temperature
        )
        if gate != EveryToken():
            target_BL = _take(teacher_BLV[..., real], targets_BL)[..., None]
            rank_BL = jnp.sum(teacher_BLV[..., real] > target_BL, axis=-1)
            known = values | ({"teacher_rank": rank_BL} if gate.needs_rank else {})
            values |= {"distilled": strength(gate, known, weights_BL)}
    loss_BL = chunked_loss.blend(values, jax.lax.stop_gradient(kd_weight))
    return _means(jnp.sum(loss_BL * weights_BL), values, weights_BL)


def _compared(
    student_BLV: jax.Array,
    teacher_BLV: jax.Array,
    targets_BL: jax.Array,
    temperature: float,
) -> chunked_loss.Values:
    """Returns what both models' logits give for each target."""
    log_p_BLV = jax.nn.log_softmax(student_BLV)
    log_q_BLV = jax.nn.log_softmax(teacher_BLV)
    soft_BLV = jax.nn.softmax(teacher_BLV / temperature)
    top_BL = jnp.max(teacher_BLV, axis=-1)
    both_top_BLV = (teacher_BLV == top_BL[..., None]) & (
        student_BLV == jnp.max(student_BLV, axis=-1, keepdims=True)
    )
    return {
        "kd": -jnp.sum(soft_BLV * log_p_BLV, axis=-1),
        "kl": jnp.sum(jnp.exp(log_q_BLV) * (log_q_BLV - log_p_BLV), axis=-1),
        "teacher_ce": -_take(log_q_BLV, targets_BL),
        "agreement": jnp.any(both_top_BLV, axis=-1),
        "teacher_wrong": _take(teacher_BLV, targets_BL) < top_BL,
    }


def chunked_salt_loss(
    student: Unembedding,
    teacher: Unembedding | None,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    partitioning: Partitioning,
    chunk_tokens: int,
    kd_weight: jax.Array | float = 0.0,
    temperature: float = 1.0,
    gate: Gate = EveryToken(),
    real_vocab_size: int | None = None,
    z_loss: float = 0.0,
    kernel: str = "auto",
) -> dict[str, WeightedMean]:
    """Computes `salt_loss` without the logits of a whole batch in memory.

    Each device splits its tokens into chunks and computes logits one chunk at a time.
    Under differentiation, the gradient of a chunk is computed beside its loss, so no
    logits are computed twice. Logits and sums are float32.

    Args:
      student: The student's unembedding. Its embedding, and the gradient by it, are
        sharded over the logical axes "vocab" and "vocab_embed".
      teacher: The teacher's unembedding, of any width, or None.
      targets_BL: The next token at each position.
      weights_BL: The weight of each target; 0 for padding.
      partitioning: The mesh and the rules of the batch and the student.
      chunk_tokens: Tokens per chunk, counted over the devices that share tokens.
      kd_weight: As in `salt_loss`.
      temperature: As in `salt_loss`, but not traced.
      gate: As in `salt_loss`. It is called inside `jit` with the values of a chunk.
      real_vocab_size: As in `salt_loss`.
      z_loss: As in `salt_loss`, but not traced.
      kernel: One of `kernel_choice.NAMES`.

    Returns:
      The metrics of `salt_loss`. A target outside the vocabulary makes them NaN.

    Raises:
      ValueError: as for `salt_loss`, a dimension does not divide over the mesh,
        `chunk_tokens` is not positive, or the kernel cannot be used.
    """
    _check_temperature(temperature)
    check_z_loss(z_loss)
    chunks = TokenChunks(partitioning, chunk_tokens)
    chunks.check(student, targets_BL)
    num_real = None
    if teacher is not None:
        ours, theirs = (m.embedding_VD.shape[0] for m in (student, teacher))
        padded_vocabulary.check(ours, theirs, real_vocab_size)
        _check_batch(student, teacher)
        targets_BL = padded_vocabulary.real_targets(targets_BL, real_vocab_size)
        teacher = jax.lax.stop_gradient(padded_vocabulary.with_rows(teacher, ours))
        # With no rows of padding, the student's rows are the real ones.
        num_real = None if real_vocab_size == ours else real_vocab_size
    blocks = LossKernel.of(kernel, chunks, student, teacher).blocks
    kd_weight = jax.lax.stop_gradient(jnp.asarray(kd_weight, jnp.float32))
    weights_BL = jax.lax.stop_gradient(weights_BL.astype(jnp.float32))
    loss, values = chunked_loss.summed_loss(
        ChunkedBlend(chunks, temperature, gate, num_real, z_loss, blocks),
        student,
        teacher,
        Tokens(targets_BL, weights_BL),
        kd_weight,
    )
    return _means(loss, values, weights_BL)


def _means(loss, values, weights_BL):
    """Returns the means by name; only that of "loss" has a gradient."""
    means = {
        name: WeightedMean.of(jax.lax.stop_gradient(x_BL), weights_BL)
        for name, x_BL in values.items()
    }
    return {"loss": WeightedMean(loss, jnp.sum(weights_BL))} | means


def _take(x_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    """Returns x at the targets; NaN for a target outside the vocabulary."""
    last = x_BLV.shape[-1] - 1
    safe_BL1 = jnp.clip(targets_BL, 0, last)[..., None]
    x_BL = jnp.take_along_axis(x_BLV, safe_BL1, axis=-1)[..., 0]
    return jnp.where((targets_BL >= 0) & (targets_BL <= last), x_BL, jnp.nan)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")


def check_z_loss(coefficient: float) -> None:
    """Refuses a coefficient of the z-loss that is negative or not finite."""
    if not 0.0 <= coefficient < math.inf:
        raise ValueError(
            f"z_loss must be at least 0 and finite, got {coefficient}: PaLM has 1e-4."
        )


def _check_batch(student: Unembedding, teacher: Unembedding) -> None:
    shapes = teacher.hidden_BLD.shape[:2], student.hidden_BLD.shape[:2]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The teacher has hidden states of shape {shapes[0]} (rows, length) and "
            f"the student of {shapes[1]}: both must read the same batch."
        )
