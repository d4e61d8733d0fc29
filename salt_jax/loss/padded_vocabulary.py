"""One vocabulary, in two models that pad it with other numbers of rows.

A model may predict more tokens than its vocabulary has, so that their number divides
over a mesh.

Dimensions: B batch, L length, V vocabulary, D embed.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from salt_jax.model.unembedding import Unembedding


def check(student: int, teacher: int, real_vocab_size: int | None) -> None:
    """Checks that student and teacher predict the same tokens.

    Args:
      student: The number of tokens that the student predicts.
      teacher: That of the teacher.
      real_vocab_size: The tokens of the vocabulary; None: all that the models predict.

    Raises:
      ValueError: the numbers differ and no size of the vocabulary is given, or a model
        predicts fewer.
    """
    if real_vocab_size is None and student != teacher:
        raise ValueError(
            f"The teacher predicts {teacher} tokens, the student {student}: "
            "distillation needs one vocabulary for both. If they pad one vocabulary to "
            "different sizes, give its own: config.Distillation.real_vocab_size."
        )
    if real_vocab_size is not None and not (
        1 <= real_vocab_size <= min(student, teacher)
    ):
        raise ValueError(
            f"real_vocab_size={real_vocab_size}, but the student predicts {student} "
            f"tokens and the teacher {teacher}: it must be from 1 to the smaller one."
        )


def real_targets(targets_BL: jax.Array, real_vocab_size: int | None) -> jax.Array:
    """Returns the targets, with -1 for those that are padding of the vocabulary."""
    if real_vocab_size is None:
        return targets_BL
    return jnp.where(targets_BL < real_vocab_size, targets_BL, -1)


def with_rows(model: Unembedding, rows: int) -> Unembedding:
    """Returns a model of `rows` tokens: rows of padding are cut or added."""
    found = model.embedding_VD.shape[0]
    if found == rows:
        return model
    added = ((0, max(rows - found, 0)), (0, 0))
    embedding_VD = jnp.pad(model.embedding_VD[:rows], added)
    return dataclasses.replace(model, embedding_VD=embedding_VD)
