"""The teacher's labels on held-out rows, beside what students make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from salt_jax.bias_variance import difficulty
from salt_jax.bias_variance.labels import Labels
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.evaluation.held_out import HeldOutRows
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.evaluation.reader import OnHost, reader_of
from salt_jax.model.transformer import Params, Transformer
from salt_jax.storage.export import Export


def measure(
    labels: Labels, students: Mapping[str, Export], confident_below: float
) -> list[dict[str, Any]] | None:
    """Returns `by_difficulty` on the rows of the validation, as JSON types.

    None if the experiment has no validation.
    """
    if labels.program.experiment.validation is None:
        return None
    rows = held_out_of(labels.program).rows()
    numbers = reader_of(labels.program).batches(np.arange(rows.count))
    weights = [np.asarray(rows.read(x).weights_BL) for x in numbers]
    num_real = labels.distillation.real_vocab_size
    teacher = _read(labels, labels.teacher, labels.teacher_params, rows, num_real)
    assert teacher.entropy_NL is not None
    student = labels.program.student
    return difficulty.by_difficulty(
        difficulty.Rows(
            ce_NL=teacher.ce_NL,
            rank_NL=teacher.rank_NL,
            entropy_NL=teacher.entropy_NL,
            weights_NL=np.concatenate(weights),
        ),
        {
            name: _read(labels, student, labels.load(export), rows).ce_NL
            for name, export in students.items()
        },
        confident_below,
    )


def _read(
    labels: Labels,
    model: Transformer,
    params: Params,
    rows: HeldOutRows,
    real_vocab_size: int | None = None,
) -> OnHost:
    """Returns how a model meets the targets of the rows, see `token_reader`."""
    chunk_tokens = labels.program.experiment.loss_chunk_tokens
    reader = dataclasses.replace(
        reader_of(labels.program),
        read=token_reader(
            model, chunk_tokens, with_entropy=True, real_vocab_size=real_vocab_size
        ),
    )
    numbers = reader.batches(np.arange(rows.count))
    batches = ((None, rows.read(x)) for x in numbers)
    parts = [found for _, found in reader.read_batches(params, batches)]
    return OnHost(*(np.concatenate(field) for field in zip(*parts, strict=True)))
