"""Updates, lowered and compiled from shapes alone."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from salt_jax.batch import Batch
from salt_jax.config import Stage
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.transformer import Params
from salt_jax.training.compiler_options import compiler_options
from salt_jax.training.program import Program
from salt_jax.training.train_step import Metrics, TrainState

CompiledUpdate = Callable[
    [TrainState, Params | None, Batch], tuple[TrainState, Metrics]
]


def compile_updates(program: Program, stages: Sequence[Stage]) -> list[CompiledUpdate]:
    """Compiles the update of each of `stages`, in order.

    Compiling them all before training shows at once if a later stage fails to
    compile, and no transition waits for the compiler.
    """
    logging.info("Compiling %s.", " and ".join(repr(s.name) for s in stages))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(functools.partial(compile_update, program), stages))


def compile_update(program: Program, stage: Stage) -> CompiledUpdate:
    """Compiles the update of `stage`, from shapes alone."""
    return lower_update(program, stage).compile()


def lower_update(program: Program, stage: Stage) -> jax.stages.Lowered:
    """Returns the lowered update of `stage`."""
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state)
    step = program.update(stage)

    def update(
        state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        return step(state, teacher_params, batch)

    update.__name__ = f"update_{stage.name}"  # Its name in traces.
    jitted = jax.jit(
        update,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=compiler_options(program.partitioning.mesh),
    )
    distillation = stage.distillation
    teacher = program.abstract_teacher(distillation) if distillation else None
    rows, length = program.experiment.batch_size, program.experiment.seq_len
    batch = abstract_batch(
        program.partitioning, rows, length, has_prefix=stage.data.has_prefix
    )
    return jitted.lower(program.abstract_state, teacher, batch)


def abstract_batch(
    partitioning: Partitioning, rows: int, length: int, *, has_prefix: bool = False
) -> Batch:
    """Returns a batch of `rows` x `length` tokens as shapes, dtypes and shardings."""
    sharding = partitioning.sharding("batch", "length")

    def field(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding)

    int_BL, float_BL = field(jnp.int32), field(jnp.float32)
    prefix_BL = field(jnp.bool_) if has_prefix else None
    return Batch(int_BL, int_BL, float_BL, int_BL, int_BL, prefix_BL)
