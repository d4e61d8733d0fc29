"""The teacher's labels on held-out rows, beside what students make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from salt_jax.bias_variance import difficulty
from salt_jax.bias_variance.labels import Labels
from salt_jax.config import Experiment
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.evaluation.reader import OnHost, Reader, ReadRows
from salt_jax.model.transformer import Params, Transformer
from salt_jax.storage.export import Export


def measure(
    labels: Labels, students: Mapping[str, Export], confident_below: float
) -> list[dict[str, Any]] | None:
    """Returns `by_difficulty` on the rows of the validation, as JSON types.

    None if the experiment validates on something other than prepared text.
    """
    found = _held_out_rows(labels.program.experiment)
    if found is None:
        return None
    read_rows, count = found
    model = labels.program.update(labels.inputs.stage).teacher
    assert model is not None
    teacher = _read(labels, model, labels.teacher_params, read_rows, count)
    weights = [read_rows(x).weights_BL for x in _numbers(labels, count)]
    assert teacher.entropy_NL is not None
    return list(
        difficulty.by_difficulty(
            difficulty.Rows(
                ce_NL=teacher.ce_NL,
                rank_NL=teacher.rank_NL,
                entropy_NL=teacher.entropy_NL,
                weights_NL=np.concatenate(weights),
            ),
            {
                name: _read(
                    labels,
                    labels.program.student,
                    labels.load(export),
                    read_rows,
                    count,
                ).ce_NL
                for name, export in students.items()
            },
            confident_below,
        )
    )


def _held_out_rows(experiment: Experiment) -> tuple[ReadRows, int] | None:
    validation = experiment.validation
    if validation is None or not isinstance(validation.data, PreparedText):
        return None
    dataset = validation.data.open(seq_len=experiment.seq_len)
    count = min(validation.num_sequences, len(dataset))
    return lambda numbers: causal_batch(dataset.read(numbers)), count


def _numbers(labels: Labels, count: int) -> list[np.ndarray]:
    size = labels.program.experiment.batch_size
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


def _read(
    labels: Labels, model: Transformer, params: Params, read_rows: ReadRows, count: int
) -> OnHost:
    """Returns how a model meets the targets of the first `count` rows."""
    experiment = labels.program.experiment
    reader = Reader(
        read=token_reader(model, experiment.loss_chunk_tokens, with_entropy=True),
        partitioning=labels.program.partitioning,
        batch_size=experiment.batch_size,
    )
    batches = ((None, read_rows(numbers)) for numbers in _numbers(labels, count))
    parts = [found for _, found in reader.read_batches(params, batches)]
    fields = zip(*parts, strict=True)
    return OnHost(*(np.concatenate(field) for field in fields))
