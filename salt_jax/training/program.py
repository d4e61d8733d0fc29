"""The program of an experiment: its models, its state and its updates."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from salt_jax.config import Distillation, Experiment, Stage
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.loss.gates import EveryToken
from salt_jax.mesh.memory import available_per_device, bytes_per_device, check_fits
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.config import TransformerConfig
from salt_jax.model.cudnn_calls import check_countable
from salt_jax.model.quantized import abstract_held, reading_model
from salt_jax.model.transformer import (
    Params,
    Transformer,
    init_params,
    parameter_facts,
)
from salt_jax.optim.moving_average import AverageState
from salt_jax.optim.schedules import Constant
from salt_jax.storage.starts import InitialParams, open_start
from salt_jax.training.loss_kernels import log_loss_kernels
from salt_jax.training.train_step import TrainState, Update


@dataclasses.dataclass(frozen=True)
class Program:
    """An experiment on a mesh of devices."""

    experiment: Experiment
    partitioning: Partitioning

    @classmethod
    def on(
        cls, experiment: Experiment, devices: Sequence[jax.Device] | None = None
    ) -> Program:
        """Returns the program of `experiment` on `devices`; default: all devices.

        Raises:
          ValueError: the batch, its microbatches or an array do not divide over the
            mesh, or the devices cannot run the attention kernel that is named.
        """
        mesh = experiment.mesh.build(devices)
        program = cls(experiment, Partitioning(mesh=mesh, rules=experiment.rules))
        shards = program.partitioning.size("batch")
        for rows in experiment.batches.distinct(0, experiment.total_steps):
            microbatches = experiment.microbatches(rows)
            parts = shards * microbatches
            if rows % parts:
                raise ValueError(
                    f"batch_size={rows} does not divide into {parts} parts: {shards} "
                    f"batch shards of the mesh {dict(mesh.shape)} x {microbatches} "
                    "microbatches."
                )
        program._choose_attention()
        log_loss_kernels(experiment, program.partitioning)
        return program

    def _choose_attention(self) -> None:
        models = {"student": self.student}
        for stage in self.experiment.stages:
            if stage.distillation is not None:
                models[f"teacher of {stage.name!r}"] = self.teacher(stage.distillation)
        rows, length = self.experiment.largest_batch, self.experiment.seq_len
        has_prefix = any(stage.data.has_prefix for stage in self.experiment.stages)
        for name, model in models.items():
            choice = AttentionChoice.of(
                model.config, model.partitioning, length, has_prefix=has_prefix
            )
            choice.log(name)
            if choice.name == "cudnn":
                parts = model.partitioning.size("batch")
                own = rows // self.experiment.microbatches(rows) // parts
                check_countable(model.config, model.partitioning, own * length)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices of the mesh."""
        return list(self.partitioning.mesh.devices.flat)

    @functools.cached_property
    def student(self) -> Transformer:
        """The model that is trained."""
        return Transformer(self.experiment.model, self.partitioning)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer as an optax transformation."""
        return self.experiment.optimizer.build(parameter_facts(self.student))

    @functools.cached_property
    def held_out_tokens(self) -> collections.Counter[TransformerConfig]:
        """The tokens of held-out data that each model has read so far; it grows."""
        return collections.Counter()

    def teacher(self, distillation: Distillation) -> Transformer:
        """Returns the teacher's model, with its own sharding rules."""
        rules = distillation.teacher_rules
        partitioning = dataclasses.replace(self.partitioning, rules=rules)
        # Without a backward pass there is nothing to rematerialize.
        shape = dataclasses.replace(distillation.teacher, remat="none")
        return Transformer(shape, partitioning)

    def reading_teacher(self, distillation: Distillation) -> Transformer:
        """Returns the teacher's model for parameters as they are held."""
        return reading_model(self.teacher(distillation), distillation.teacher_dtype)

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """The state as shapes, dtypes and shardings; nothing is allocated."""
        return self.partitioning.abstract(self._init_state, jax.random.key(0))

    def fresh_state(self) -> TrainState:
        """Returns the state at step 0, made on its shards.

        Raises what `initial` does, and:
          ValueError: the arrays of `initial_export` are damaged.
        """
        initial = self.initial  # Opened before anything is allocated.
        key = jax.random.key(self.experiment.seed)
        state = self.partitioning.materialize(self._init_state, key)
        if initial is None:
            return state
        _delete((state.params, state.average))
        params = initial.load(self.abstract_state.params)
        return state.replace(params=params, average=self.fresh_average(params))

    @property
    def abstract_average(self) -> AverageState:
        """A moving average as shapes, dtypes and shardings; of any experiment."""
        return AverageState(self.abstract_state.params, self.abstract_state.step)

    def fresh_average(self, params: Params) -> AverageState | None:
        """Returns the moving average before its first update; None without one."""
        if (average := self.experiment.average) is None:
            return None
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_average)
        return jax.jit(average.init, out_shardings=shardings)(params)

    @functools.cached_property
    def initial(self) -> InitialParams | None:
        """What the student starts from, opened; None: random parameters.

        Raises:
          FileNotFoundError: there is no `initial_export`.
          ValueError: it is of another model or vocabulary, or damaged.
        """
        if (start := self.experiment.initial_export) is None:
            return None
        vocabulary = Vocabulary.open(self.experiment.stages[0].data.vocabulary)
        return open_start(start, self.experiment.model, vocabulary)

    def stages_from(
        self, step: int, ended: Mapping[str, int] = types.MappingProxyType({})
    ) -> list[Stage]:
        """Returns the stages that end after `step`; see `Experiment.timeline`."""
        stages = [stage for _, stage in self.experiment.timeline(ended)]
        return [stage for stage in stages if stage.end_step > step]

    def check_memory(self) -> None:
        """Checks that the experiment fits the devices, before anything is allocated.

        Raises:
          ValueError: the parameters, gradients, optimizer state and teacher alone
            exceed the memory of a device.
        """
        device = self.partitioning.mesh.local_devices[0]
        check_fits(self.held_bytes(), available_per_device(device))

    def held_bytes(self) -> dict[str, int]:
        """Returns the bytes that a device holds throughout a step, by part."""
        state = self.abstract_state
        teachers = [
            bytes_per_device(self.abstract_teacher(stage.distillation))
            for stage in self.experiment.stages
            if stage.distillation is not None
        ]
        return {
            "parameters": bytes_per_device(state.params),
            "gradients": bytes_per_device(state.params),
            "optimizer": bytes_per_device(state.opt_state),
            "average": bytes_per_device(state.average),
            "teacher": max(teachers, default=0),
        }

    def update(self, stage: Stage, rows: int | None = None) -> Update:
        """Returns the update that `stage` applies to batches of `rows`.

        By default `rows` is the size of the experiment's largest batch.
        """
        rows = self.experiment.largest_batch if rows is None else rows
        distillation = stage.distillation
        # As planned: what the guard remembers of a stage is found by it.
        begins = {each.name: step for step, each in self.experiment.timeline()}
        return Update(
            student=self.student,
            optimizer=self.optimizer,
            teacher=self.reading_teacher(distillation) if distillation else None,
            kd_weight=distillation.kd_weight if distillation else Constant(value=0.0),
            temperature=distillation.temperature if distillation else 1.0,
            gate=distillation.tokens if distillation else EveryToken(),
            real_vocab_size=distillation.real_vocab_size if distillation else None,
            chunk_tokens=self.experiment.loss_chunk_tokens,
            loss_kernel=self.experiment.loss_kernel,
            num_microbatches=self.experiment.microbatches(rows),
            z_loss=self.experiment.z_loss,
            guard=self.experiment.guard,
            average=self.experiment.average,
            begin_step=begins.get(stage.name, 0),
        )

    def lower_init(self) -> jax.stages.Lowered:
        """Returns the lowered initialization of the state."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        key = key.update(sharding=self.partitioning.sharding())
        return self.partitioning.jit_init(self._init_state, key).lower(key)

    def abstract_teacher(self, distillation: Distillation) -> Params:
        """Returns the teacher's parameters as shapes, dtypes and shardings."""
        return abstract_held(self.teacher(distillation), distillation.teacher_dtype)

    def _init_state(self, key: jax.Array) -> TrainState:
        params = init_params(self.student, key)
        step = jnp.zeros((), jnp.int32)
        guard, average = self.experiment.guard, self.experiment.average
        return TrainState(
            step,
            params,
            self.optimizer.init(params),
            None if guard is None else guard.init(),
            None if average is None else average.init(params),
            jnp.ones(()) if self.experiment.weighs_by_measures else None,
        )


def _delete(arrays: Any) -> None:
    for leaf in jax.tree.leaves(arrays):
        leaf.delete()
