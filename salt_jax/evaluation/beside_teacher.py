"""A teacher on the validation rows: its loss, and how the student compares with it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from salt_jax.batch import Batch
from salt_jax.config import Stage
from salt_jax.evaluation.held_out import HeldOutRows
from salt_jax.evaluation.reader import reader_of
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.model.transformer import Params
from salt_jax.optim.schedules import Constant
from salt_jax.training.program import Program
from salt_jax.training.train_step import TrainState, Update
from salt_jax.transition import measures
from salt_jax.transition.measures import (
    VAL_GRADIENT_AGREEMENT,
    VAL_KL,
    VAL_LOSS_REAL,
)

_Compiled = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class BesideTeacher:
    """The measures of a validation that need the teacher of a stage."""

    program: Program
    rows: HeldOutRows
    # By stage and measure, so that each is compiled once.
    _compiled: dict[tuple[str, str], _Compiled] = dataclasses.field(
        default_factory=dict
    )

    def loss(self, stage: Stage, teacher: Params) -> float:
        """Returns the teacher's mean cross-entropy [nats/token].

        Its rows of padding have no probability, as in distillation.
        """
        assert stage.distillation is not None
        model = self.program.reading_teacher(stage.distillation)
        real = stage.distillation.real_vocab_size
        reader = reader_of(self.program, model, real_vocab_size=real)
        return reader.mean_loss(teacher, self.rows.read, self.rows.count)

    def identity(self, stage: Stage, teacher_fingerprint: str) -> str:
        """Returns a digest of all that `loss` depends on."""
        assert stage.distillation is not None
        real = stage.distillation.real_vocab_size
        rows = (self.rows.fingerprint, self.rows.count)
        facts = (teacher_fingerprint, *rows, *([real] if real else []))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def measured(
        self, stage: Stage, params: Params, teacher: Params
    ) -> dict[str, float]:
        """Returns those of the stage's measures that compare student and teacher."""
        kinds = {VAL_KL: self._kl, VAL_GRADIENT_AGREEMENT: self._agreement}
        found = {}
        for name in (name for name in kinds if name in stage.reads):
            found[name] = kinds[name](self._compile(name, stage), params, teacher)
            self._count(name, stage)
        if measures.compares_losses(stage.reads) and self._pads(stage):
            found[VAL_LOSS_REAL] = self._real_loss(stage, params)
        return found

    def _pads(self, stage: Stage) -> bool:
        """Returns whether the student has rows of padding that the stage masks."""
        assert stage.distillation is not None
        rows = self.program.experiment.model.vocab_size
        return stage.distillation.real_vocab_size not in (None, rows)

    def _real_loss(self, stage: Stage, params: Params) -> float:
        """Returns the student's loss as `loss` gives the teacher's."""
        assert stage.distillation is not None
        key = stage.name, VAL_LOSS_REAL
        real = stage.distillation.real_vocab_size
        reader = reader_of(self.program, real_vocab_size=real)
        read = self._compiled.setdefault(key, reader.read)
        reader = dataclasses.replace(reader, read=read)
        return reader.mean_loss(params, self.rows.read, self.rows.count)

    def _count(self, name: str, stage: Stage) -> None:
        """Counts what a measure has read; a backward pass as two forward passes."""
        assert stage.distillation is not None
        experiment, rows = self.program.experiment, self.rows.count
        student, teacher = experiment.model, stage.distillation.teacher
        if name == VAL_KL:
            passes = {student: 1, teacher: 1}
        else:
            passes, rows = {student: 6, teacher: 2}, min(rows, experiment.largest_batch)
        tokens = rows * experiment.seq_len
        self.program.held_out_tokens.update({k: n * tokens for k, n in passes.items()})

    def _compile(self, name: str, stage: Stage) -> _Compiled:
        key = stage.name, name
        if key not in self._compiled:
            update = self.program.update(stage)
            make = _kl_of if name == VAL_KL else _cosine_of
            self._compiled[key] = make(update)
        return self._compiled[key]

    def _kl(self, read: _Compiled, params: Params, teacher: Params) -> float:
        """Returns the mean of KL(teacher || student) over all rows."""
        reader = reader_of(self.program)
        sums = [
            read(params, teacher, reader.on_mesh(self.rows.read(numbers)))
            for numbers in reader.batches(np.arange(self.rows.count))
        ]
        weight = sum(float(each.weight) for each in sums)
        return sum(float(each.total) for each in sums) / max(weight, 1.0)

    def _agreement(self, read: _Compiled, params: Params, teacher: Params) -> float:
        """Returns the cosine of both gradients on the first rows, a batch of them."""
        size = self.program.experiment.largest_batch
        reader = dataclasses.replace(reader_of(self.program), batch_size=size)
        batch = self.rows.read(np.arange(min(self.rows.count, size)))
        return float(read(params, teacher, reader.on_mesh(batch)))


def _kl_of(update: Update) -> _Compiled:
    """Returns the sum of KL(teacher || student) over a microbatch, compiled.

    The gradient has no use, so the compiler leaves it out.
    """
    update = dataclasses.replace(update, num_microbatches=1)

    def read(params: Params, teacher: Params, batch: Batch) -> WeightedMean:
        return update.gradients(_stateless(params), teacher, batch)[1]["kl"]

    return jax.jit(read, out_shardings=update.student.partitioning.sharding())


def _cosine_of(update: Update) -> _Compiled:
    """Returns the cosine of the gradients of both terms over a batch, compiled.

    It holds two gradients at once.
    """

    def read(params: Params, teacher: Params, batch: Batch) -> jax.Array:
        def gradient(kd_weight: float) -> Params:
            term = dataclasses.replace(update, kd_weight=Constant(value=kd_weight))
            return term.gradients(_stateless(params), teacher, batch)[0]

        ce, kd = gradient(0.0), gradient(1.0)
        lengths = optax.tree.norm(ce) * optax.tree.norm(kd)
        return optax.tree.vdot(ce, kd) / jnp.maximum(lengths, 1e-30)

    return jax.jit(read, out_shardings=update.student.partitioning.sharding())


def _stateless(params: Params) -> TrainState:
    """Returns a state of which only the parameters are read."""
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=())
