"""One parameter update, as a pure function.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from salt_jax.batch import Batch
from salt_jax.loss.gates import EveryToken, Gate
from salt_jax.loss.losses import chunked_salt_loss
from salt_jax.mesh.partitioning import REPLICA
from salt_jax.mesh.shard_maps import sum_over_replicas
from salt_jax.model.transformer import Params, Transformer
from salt_jax.optim.guard import GuardState, UpdateGuard
from salt_jax.optim.moving_average import AverageState, MovingAverage
from salt_jax.optim.optimizer import advance_schedules
from salt_jax.optim.schedules import Constant, Schedule

Metrics = dict[str, Any]  # By name: a `WeightedMean`, or a scalar of the whole step.
Sums = tuple[Params, Metrics]  # Gradients and metrics, summed over tokens.


@flax.struct.dataclass
class TrainState:
    """The state that an update replaces and a checkpoint holds."""

    step: jax.Array  # Steps made so far, those without an update among them.
    params: Params
    opt_state: optax.OptState
    guard: GuardState | None = None  # None without a guard.
    average: AverageState | None = None  # None without a moving average.
    # What a kd_weight that depends on validations is multiplied by; None without one.
    kd_factor: jax.Array | None = None

    def without_update(self) -> TrainState:
        """Returns the state after a step that makes no update; schedules go on."""
        opt_state = advance_schedules(self.opt_state)
        return dataclasses.replace(self, step=self.step + 1, opt_state=opt_state)


def leave_out(state: TrainState) -> TrainState:
    """Returns the state after a step without an update, in the memory of `state`."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(TrainState.without_update, donate_argnums=0, out_shardings=shardings)
    return step(state)


class _Shared(NamedTuple):
    """The inputs that all microbatches of a step share."""

    params: Params  # The student's.
    teacher_params: Params | None
    kd_weight: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """The update of one stage: its models, its blended loss, its optimizer."""

    student: Transformer
    optimizer: optax.GradientTransformation
    teacher: Transformer | None = None
    kd_weight: Schedule = Constant(value=0.0)
    temperature: float = 1.0
    gate: Gate = EveryToken()
    real_vocab_size: int | None = None
    z_loss: float = 0.0
    chunk_tokens: int
    loss_kernel: str = "auto"
    num_microbatches: int = 1
    guard: UpdateGuard | None = None
    average: MovingAverage | None = None
    begin_step: int = 0  # Of the stage; what the guard compares with begins there.

    def __call__(
        self, state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """Returns the next state, and metrics of the parameters it started from."""
        grads, metrics = self.gradients(state, teacher_params, batch)
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(
                grads, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        updated = dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state
        )
        if self.average is not None:
            updated = self._averaged(self.average, state, updated)
        if self.guard is None:
            return updated, metrics
        return self._guarded(self.guard, state, updated, metrics)

    def gradients(
        self, state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> tuple[Params, Metrics]:
        """Returns the gradient of the mean loss over the global batch, and metrics."""
        kd_weight = self.kd_weight(state.step)
        if self.teacher is not None and state.kd_factor is not None:
            kd_weight = kd_weight * state.kd_factor
        shared = _Shared(state.params, teacher_params, kd_weight)
        grads, metrics = self._sums_over_replicas(shared, batch)
        # The only division, by the weight of the whole global batch: microbatches and
        # devices with fewer targets count for less.
        weight = jnp.maximum(metrics["loss"].weight, 1.0)
        grads = jax.tree.map(lambda sums: sums / weight, grads)
        if self.teacher is not None:
            metrics |= {"kd_weight": shared.kd_weight}
        return grads, metrics

    def _averaged(
        self, average: MovingAverage, state: TrainState, updated: TrainState
    ) -> TrainState:
        """Returns `updated` with its parameters in the average."""
        assert state.average is not None
        with jax.named_scope("average"):
            averaged = average.update(state.average, updated.params, updated.step)
        return dataclasses.replace(updated, average=averaged)

    def _guarded(
        self, guard: UpdateGuard, state: TrainState, updated: TrainState, found: Metrics
    ) -> tuple[TrainState, Metrics]:
        """Returns `updated` if the guard keeps the update, and metrics that say so."""
        assert state.guard is not None
        with jax.named_scope("guard"):
            keep, remembered = guard.judge(
                state.guard,
                found["loss"].mean(),
                found["grad_norm"],
                begin_step=self.begin_step,
            )
            chosen = jax.tree.map(
                lambda new, old: jnp.where(keep, new, old),
                updated,
                state.without_update(),
            )
        metrics = found | {
            "update_norm": jnp.where(keep, found["update_norm"], 0.0),
            "skipped_updates": remembered.dropped,
            "skipped_in_a_row": remembered.dropped_in_a_row,
        }
        return dataclasses.replace(chosen, guard=remembered), metrics

    def _sums_over_replicas(self, shared: _Shared, batch: Batch) -> Sums:
        """Adds up the sums of the replicas, each over rows of its own.

        Gradients cross the replicas once a step, all together, because the network
        between slices is slow. The compiler alone would add them layer by layer, and
        again for each microbatch.
        """
        partitioning = self.student.partitioning
        is_split = REPLICA in partitioning.mesh_axes("batch")
        if not is_split or partitioning.mesh.shape[REPLICA] == 1:
            return self._sums_over_microbatches(shared, batch)
        inner = self._of_one_replica()
        run = sum_over_replicas(partitioning, inner._sums_over_microbatches)
        return run(shared, batch)

    def _of_one_replica(self) -> Update:
        """Returns this update for a batch that is not split over replicas."""

        def of_one_replica(model: Transformer) -> Transformer:
            return model.clone(partitioning=model.partitioning.of_one_replica())

        teacher = None if self.teacher is None else of_one_replica(self.teacher)
        student = of_one_replica(self.student)
        return dataclasses.replace(self, student=student, teacher=teacher)

    def _sums_over_microbatches(self, shared: _Shared, batch: Batch) -> Sums:
        """Adds up the sums of the microbatches of `batch`, one after another."""
        if self.num_microbatches == 1:
            return self._sums(shared, batch)

        def add(sums: Sums, microbatch: Batch) -> tuple[Sums, None]:
            return jax.tree.map(jnp.add, sums, self._sums(shared, microbatch)), None

        microbatches = jax.tree.map(self._split, batch)
        first = jax.tree.map(lambda x: x[0], microbatches)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(lambda batch: self._sums(shared, batch), first),
        )
        return jax.lax.scan(add, zeros, microbatches)[0]

    def _split(self, x_BL: jax.Array) -> jax.Array:
        """Deals rows to the microbatches in turn, so that no row changes its device."""
        rows = x_BL.reshape(-1, self.num_microbatches, *x_BL.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    def _sums(self, shared: _Shared, batch: Batch) -> Sums:
        """Returns the gradients and metrics of `batch`, summed over its tokens."""
        total_loss = functools.partial(self._total_loss, shared, batch)
        return jax.grad(total_loss, has_aux=True)(shared.params)

    def _total_loss(
        self, shared: _Shared, batch: Batch, params: Params
    ) -> tuple[jax.Array, Metrics]:
        """Returns the weighted sum of the loss over `batch`, and the metrics."""
        student: Any = self.student.apply(params, batch)
        teacher = self._consult_teacher(shared.teacher_params, batch)
        with jax.named_scope("loss"):
            metrics = chunked_salt_loss(
                student,
                teacher,
                batch.targets_BL,
                batch.weights_BL,
                partitioning=self.student.partitioning,
                chunk_tokens=self.chunk_tokens,
                kernel=self.loss_kernel,
                kd_weight=shared.kd_weight,
                temperature=self.temperature,
                gate=self.gate,
                real_vocab_size=self.real_vocab_size,
                z_loss=self.z_loss,
            )
        return metrics["loss"].total, metrics

    def _consult_teacher(self, teacher_params: Any, batch: Batch) -> Any:
        if self.teacher is None:
            return None
        with jax.named_scope("teacher"):
            return jax.lax.stop_gradient(self.teacher.apply(teacher_params, batch))
