"""Gradients of a student by one-hot labels, by its teacher's and by true labels.

All are gradients of the loss that training uses, the mean over the tokens of a batch.

Dimensions: B batch, L length, V vocabulary, C contexts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.languages.markov import MarkovTruth
from salt_jax.evaluation.held_out_language import padded, truth_of
from salt_jax.loss.losses import chunked_salt_loss
from salt_jax.model.transformer import Params
from salt_jax.model.unembedding import Unembedding
from salt_jax.training.program import Program

ONE_HOT, TEACHER, TRUTH = "one-hot", "teacher", "truth"
# Returns what the loss takes as the teacher of a batch.
Teach = Callable[[Any, Batch], Unembedding]
_NEVER = -1e4  # The logit of a token whose probability is 0.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelGradients:
    """The gradients of a batch at fixed parameters, by kind of labels."""

    program: Program
    temperature: float = 1.0  # Of the teacher.
    real_vocab_size: int | None = None  # From here on the teacher's rows are padding.

    def by_labels(
        self, teachers: Mapping[str, tuple[Teach, Any]]
    ) -> Callable[[Params, Batch], list[Any]]:
        """Returns a function: parameters and batch to one gradient for each label.

        The first gradient is that of one-hot labels, the others are in the order of
        `teachers`: a model, and the parameters that it takes.
        """
        one_hot = self._gradient(None, {})
        soft = [
            (self._gradient(teach, self._blend(name)), params)
            for name, (teach, params) in teachers.items()
        ]
        return lambda params, batch: [
            one_hot(params, None, batch),
            *(gradient(params, of_teacher, batch) for gradient, of_teacher in soft),
        ]

    def _blend(self, name: str) -> dict[str, Any]:
        """Returns the loss's arguments for labels alone.

        The truth stays whole where the teacher has rows of padding masked: it has no
        probability there, so its gradient is the mean of the one-hot ones.
        """
        if name != TEACHER:
            return {"kd_weight": 1.0}
        return {
            "kd_weight": 1.0,
            "temperature": self.temperature,
            "real_vocab_size": self.real_vocab_size,
        }

    def _gradient(
        self, teach: Teach | None, blend: Mapping[str, Any]
    ) -> Callable[[Params, Any, Batch], Any]:
        student = self.program.student
        chunk_tokens = self.program.experiment.loss_chunk_tokens
        shardings = jax.tree.map(
            lambda x: x.sharding, self.program.abstract_state.params
        )

        def loss(params: Params, teacher_params: Any, batch: Batch) -> jax.Array:
            unembedding: Any = student.apply(params, batch)
            taught = None if teach is None else teach(teacher_params, batch)
            return chunked_salt_loss(
                unembedding,
                taught,
                batch.targets_BL,
                batch.weights_BL,
                partitioning=student.partitioning,
                chunk_tokens=chunk_tokens,
                **blend,
            )["loss"].mean()

        return jax.jit(jax.grad(loss), out_shardings=shardings)


def truth_as_teacher(truth: MarkovTruth, num_predicted: int) -> tuple[Teach, Any]:
    """Returns a teacher that predicts the truth, and the parameters that it takes."""
    table_CV = padded(truth, num_predicted)
    log_VC = np.log(table_CV, out=np.full_like(table_CV, _NEVER), where=table_CV > 0).T

    def teach(log_VC: jax.Array, batch: Batch) -> Unembedding:
        one_context_CC = jnp.eye(log_VC.shape[1], dtype=jnp.float32)
        return Unembedding(truth_of(one_context_CC, truth, batch), log_VC)

    return teach, np.ascontiguousarray(log_VC)
