"""One parameter update, as a pure function.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from salt_jax.batch import Batch
from salt_jax.losses import chunked_salt_loss
from salt_jax.model.transformer import Params, Transformer
from salt_jax.schedules import Constant, Schedule

# Of each name a `WeightedMean`, or a scalar of the whole step.
Metrics = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything an update reads and replaces; exactly what a checkpoint holds."""

    step: jax.Array  # Updates made so far.
    params: Params
    opt_state: optax.OptState


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

        def sums_over(batch: Batch) -> tuple[Params, Metrics]:
            def total_loss(params: Params) -> tuple[jax.Array, Metrics]:
                student: Any = self.student.apply(params, batch)
                metrics = chunked_salt_loss(
                    student,
                    self._consult_teacher(teacher_params, batch),
                    batch.targets_BL,
                    batch.weights_BL,
                    partitioning=self.student.partitioning,
                    chunk_tokens=self.chunk_tokens,
                    kd_weight=kd_weight,
                    temperature=self.temperature,
                )
                return metrics["loss"].total, metrics

            return jax.grad(total_loss, has_aux=True)(state.params)

        grads, metrics = self._accumulate(sums_over, batch)
        # The one division, by the weight of the whole global batch: microbatches and
        # devices with fewer targets count for less.
        weight = jnp.maximum(metrics["loss"].weight, 1.0)
        grads = jax.tree.map(lambda sums: sums / weight, grads)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        if self.teacher is not None:
            metrics |= {"kd_weight": kd_weight}
        return TrainState(state.step + 1, params, opt_state), metrics

    def _consult_teacher(self, teacher_params: Any, batch: Batch) -> Any:
        if self.teacher is None:
            return None
        return jax.lax.stop_gradient(self.teacher.apply(teacher_params, batch))

    def _accumulate(self, sums_over: Any, batch: Batch) -> tuple[Params, Metrics]:
        """Adds up `sums_over` the microbatches of `batch`."""
        if self.num_microbatches == 1:
            return sums_over(batch)

        def add(sums: Any, microbatch: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, sums_over(microbatch)), None

        microbatches = jax.tree.map(self._split, batch)
        first = jax.tree.map(lambda x: x[0], microbatches)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums_over, first)
        )
        return jax.lax.scan(add, zeros, microbatches)[0]

    def _split(self, x_BL: jax.Array) -> jax.Array:
        """Deals rows to microbatches in turn, so that no row changes its device."""
        rows = x_BL.reshape(-1, self.num_microbatches, *x_BL.shape[1:])
        return jnp.swapaxes(rows, 0, 1)
