"""The programs of a run, lowered from shapes without data, export or vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from salt_jax.compiling.activations import saved_bytes
from salt_jax.compiling.roofline import LossTiling
from salt_jax.config import Scoring, Stage
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.evaluation.reader import reader_of
from salt_jax.loss.kernel_choice import LossKernel
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.memory import bytes_per_device
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.flops import FlopsBill, reading_bill, training_bill
from salt_jax.model.quantized import abstract_held, reading_model
from salt_jax.model.transformer import Transformer
from salt_jax.training.compiled_updates import (
    abstract_batch,
    lower_update,
    update_name,
)
from salt_jax.training.loss_kernels import loss_kernel
from salt_jax.training.program import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A program to compile, with its memory and FLOPs by formula."""

    name: str
    mesh: Mesh
    lower: Callable[[], jax.stages.Lowered]
    # Bytes per chip, by purpose.
    held: Mapping[str, int]  # Arguments.
    made: Mapping[str, int] = dataclasses.field(default_factory=dict)  # Temporaries.
    beside: Mapping[str, int] = dataclasses.field(default_factory=dict)  # Of others.
    tokens: int = 0  # Tokens of one execution, over all chips.
    flops: FlopsBill = FlopsBill()  # Per token.
    loss: LossTiling | None = None
    loss_kernel: LossKernel = LossKernel("xla")
    num_losses: int = 1  # Losses computed one after another: the microbatches.
    stage: Stage | None = None

    @property
    def tokens_per_chip(self) -> float:
        """The tokens of one execution, divided by the number of chips."""
        return self.tokens / self.mesh.size


def of_experiment(program: Program) -> list[Planned]:
    """Returns the programs of a training run: stages, initialization, evaluation."""
    updates = [
        of_stage(program, stage, rows)
        for stage in program.experiment.stages
        for rows in program.experiment.sizes_of(stage.name)
    ]
    return [*updates, _of_init(program), _of_evaluation(program)]


def of_stage(program: Program, stage: Stage, rows: int | None = None) -> Planned:
    """Returns the training step of a stage on `rows`; by default the largest batch."""
    experiment, state = program.experiment, program.abstract_state
    partitioning, distillation = program.partitioning, stage.distillation
    held = {
        "parameters": bytes_per_device(state.params),
        "optimizer": bytes_per_device(state.opt_state),
        "average": bytes_per_device(state.average),
    }
    if distillation:
        held["teacher"] = bytes_per_device(program.abstract_teacher(distillation))
    teacher = distillation.teacher if distillation else None
    rows = experiment.largest_batch if rows is None else rows
    length, microbatches = experiment.seq_len, experiment.microbatches(rows)
    saved = saved_bytes(
        program.student,
        rows // microbatches,
        length,
        has_prefix=stage.data.has_prefix,
    )
    kernel = loss_kernel(experiment, partitioning, stage, rows)
    tiling = _tiling(
        TokenChunks(partitioning, experiment.loss_chunk_tokens),
        experiment.model,
        teacher,
        rows * length // microbatches,
        gradient=True,
        kernel=kernel,
    )
    return Planned(
        name=update_name(program, stage, rows),
        mesh=partitioning.mesh,
        lower=lambda: lower_update(program, stage, rows),
        held=held,
        made={
            "gradients": bytes_per_device(state.params),
            "saved activations": saved,
            "logits": tiling.logits_bytes,
        },
        tokens=rows * length,
        flops=training_bill(experiment.model, teacher, length),
        loss=tiling,
        loss_kernel=kernel,
        num_losses=microbatches,
        stage=stage,
    )


def of_scoring(scoring: Scoring, devices: Sequence[jax.Device]) -> list[Planned]:
    """Returns the program with which one host scores on its `devices`."""
    partitioning = Partitioning(mesh=scoring.mesh.build(devices), rules=scoring.rules)
    model = Transformer(scoring.scorer, partitioning)
    reading = reading_model(model, scoring.scorer_dtype)
    read: Any = token_reader(
        reading, scoring.chunk_tokens, with_entropy=True, kernel=scoring.loss_kernel
    )
    params = abstract_held(model, scoring.scorer_dtype)
    chunks = TokenChunks(partitioning, scoring.chunk_tokens)
    size = scoring.batch_size, scoring.seq_len
    kernel = scoring.loss_kernel
    return [_of_reading("scoring", model, read, params, chunks, size, kernel)]


def _of_init(program: Program) -> Planned:
    state = program.abstract_state
    return Planned(
        name="init",
        mesh=program.partitioning.mesh,
        lower=program.lower_init,
        held={},
        made={
            "parameters": bytes_per_device(state.params),
            "optimizer": bytes_per_device(state.opt_state),
            "average": bytes_per_device(state.average),
        },
    )


def _of_evaluation(program: Program) -> Planned:
    experiment, reader = program.experiment, reader_of(program)
    planned = _of_reading(
        "evaluation",
        program.student,
        reader.read,
        program.abstract_state.params,
        TokenChunks(program.partitioning, experiment.loss_chunk_tokens),
        (reader.batch_size, experiment.seq_len),
        experiment.loss_kernel,
    )
    # It runs between steps, so the optimizer state and the teacher are in memory too.
    state = program.abstract_state
    teachers = [
        bytes_per_device(program.abstract_teacher(stage.distillation))
        for stage in experiment.stages
        if stage.distillation
    ]
    beside = {
        "optimizer": bytes_per_device(state.opt_state),
        "average": bytes_per_device(state.average),
        "teacher": max(teachers, default=0),
    }
    return dataclasses.replace(planned, beside=beside)


def _of_reading(
    name: str,
    model: Transformer,
    read: Any,
    params: Any,
    chunks: TokenChunks,
    size: tuple[int, int],
    kernel_name: str,
) -> Planned:
    rows, length = size
    kernel = LossKernel.of_shapes(kernel_name, chunks, rows, length, model.config)
    batch = abstract_batch(chunks.partitioning, rows, length)
    return Planned(
        name=name,
        mesh=chunks.partitioning.mesh,
        lower=lambda: read.lower(params, batch),
        held={"parameters": bytes_per_device(params)},
        tokens=rows * length,
        flops=reading_bill(model.config, length),
        loss=_tiling(
            chunks, model.config, None, rows * length, gradient=False, kernel=kernel
        ),
        loss_kernel=kernel,
    )


def _tiling(
    chunks: TokenChunks,
    student: TransformerConfig,
    teacher: TransformerConfig | None,
    tokens: int,
    *,
    gradient: bool,
    kernel: LossKernel,
) -> LossTiling:
    partitioning, shards = chunks.partitioning, chunks.shards
    own = tokens // (partitioning.size("batch") * partitioning.size("length"))
    return LossTiling(
        tokens=own * shards.num_sharing // shards.num_shards,
        chunk_tokens=chunks.chunk_tokens,
        vocab_size=student.vocab_size,
        vocab_shards=shards.num_shards,
        student_dim=student.embed_dim,
        teacher_dim=teacher.embed_dim if teacher else 0,
        embedding_bytes=2 if student.dtype == "bfloat16" else 4,
        gradient=gradient,
        kernel="xla" if kernel.blocks is None else "pallas",
    )
