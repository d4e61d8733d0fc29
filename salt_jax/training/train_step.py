"""One parameter update, as a pure function.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from salt_jax.batch import Batch
from salt_jax.loss.losses import chunked_salt_loss
from salt_jax.model.transformer import Params, Transformer
from salt_jax.optim.schedules import Constant, Schedule

# Of each name a `WeightedMean`, or a scalar of the whole step.
Metrics = dict[str, Any]
REPLICA = "replica"  # The mesh axis across slices.


@flax.struct.dataclass
class TrainState:
    """Everything an update reads and replaces; exactly what a checkpoint holds."""

    step: jax.Array  # Updates made so far.
    params: Params
    opt_state: optax.OptState


# Gradients and metrics of a batch, both summed over its tokens.
SumsOver = Callable[["Update", Batch], tuple[Params, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """What one stage does at every step: its models, its blend, its optimizer."""

    student: Transformer
    optimizer: optax.GradientTransformation
    teacher: Transformer | None = None
    kd_weight: Schedule = Constant(value=0.0)
    temperature: float = 1.0
    chunk_tokens: int
    num_microbatches: int = 1

    def __call__(
        self, state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """Returns the next state, and metrics of the parameters it started from."""
        kd_weight = self.kd_weight(state.step)

        def sums_over(update: Update, batch: Batch) -> tuple[Params, Metrics]:
            total_loss = functools.partial(
                update._total_loss, teacher_params, batch, kd_weight
            )
            return jax.grad(total_loss, has_aux=True)(state.params)

        grads, metrics = self._add_up_replicas(sums_over, batch)
        # The one division, by the weight of the whole global batch: microbatches and
        # devices with fewer targets count for less.
        weight = jnp.maximum(metrics["loss"].weight, 1.0)
        grads = jax.tree.map(lambda sums: sums / weight, grads)
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(
                grads, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        if self.teacher is not None:
            metrics |= {"kd_weight": kd_weight}
        return TrainState(state.step + 1, params, opt_state), metrics

    def _total_loss(
        self,
        teacher_params: Params | None,
        batch: Batch,
        kd_weight: jax.Array,
        params: Params,
    ) -> tuple[jax.Array, Metrics]:
        """Returns the weighted sum of the loss over `batch`, and the metrics."""
        student: Any = self.student.apply(params, batch)
        teacher = self._consult_teacher(teacher_params, batch)
        with jax.named_scope("loss"):
            metrics = chunked_salt_loss(
                student,
                teacher,
                batch.targets_BL,
                batch.weights_BL,
                partitioning=self.student.partitioning,
                chunk_tokens=self.chunk_tokens,
                kd_weight=kd_weight,
                temperature=self.temperature,
            )
        return metrics["loss"].total, metrics

    def _consult_teacher(self, teacher_params: Any, batch: Batch) -> Any:
        if self.teacher is None:
            return None
        with jax.named_scope("teacher"):
            return jax.lax.stop_gradient(self.teacher.apply(teacher_params, batch))

    def _add_up_replicas(self, sums_over: SumsOver, batch: Batch) -> Any:
        """Adds up `sums_over` the replicas, each of which has rows of its own.

        The sum is taken once a step, of all gradients together: replicas are on slices
        with a slow network between them. Left to the compiler it is taken layer by
        layer, and again for each microbatch.
        """
        partitioning = self.student.partitioning
        replicas = 1
        if REPLICA in partitioning.mesh_axes("batch"):
            replicas = partitioning.mesh.shape[REPLICA]
        if replicas == 1:
            return self._accumulate(sums_over, batch)
        inner = self._of_one_replica()
        rows = jax.tree.map(lambda x: x.reshape(replicas, -1, *x.shape[1:]), batch)
        sums = jax.vmap(
            lambda batch: inner._accumulate(sums_over, batch), spmd_axis_name=REPLICA
        )(rows)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)

    def _of_one_replica(self) -> Update:
        """Returns this update of a batch that is not split over replicas."""

        def of_one_replica(model: Transformer) -> Transformer:
            return model.clone(partitioning=model.partitioning.of_one_replica())

        teacher = None if self.teacher is None else of_one_replica(self.teacher)
        student = of_one_replica(self.student)
        return dataclasses.replace(self, student=student, teacher=teacher)

    def _accumulate(self, sums_over: SumsOver, batch: Batch) -> Any:
        """Adds up `sums_over` the microbatches of `batch`."""
        if self.num_microbatches == 1:
            return sums_over(self, batch)

        def add(sums: Any, microbatch: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, sums_over(self, microbatch)), None

        microbatches = jax.tree.map(self._split, batch)
        first = jax.tree.map(lambda x: x[0], microbatches)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(lambda batch: sums_over(self, batch), first),
        )
        return jax.lax.scan(add, zeros, microbatches)[0]

    def _split(self, x_BL: jax.Array) -> jax.Array:
        """Deals rows to microbatches in turn, so that no row changes its device."""
        rows = x_BL.reshape(-1, self.num_microbatches, *x_BL.shape[1:])
        return jnp.swapaxes(rows, 0, 1)
