"""Updates, lowered and compiled from shapes alone."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
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


def compile_updates(
    program: Program, stages: Sequence[Stage], from_step: int = 0
) -> list[CompiledUpdate]:
    """Compiles the update of each of `stages`, in order, for each size of its batches.

    Compiling them all before training shows at once if a later stage or a larger batch
    fails to compile, and no change waits for the compiler.

    Args:
      program: The program.
      stages: Some of its stages.
      from_step: The steps that are made already.
    """
    planned = [
        (stage, rows)
        for stage in stages
        for rows in program.experiment.sizes_of(stage.name, from_step)
    ]
    names = [repr(update_name(program, *each)) for each in planned]
    logging.info("Compiling %s.", " and ".join(names))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda each: compile_update(program, *each), planned)
        found = dict(
            zip(((stage.name, rows) for stage, rows in planned), compiled, strict=True)
        )
    return [
        by_size({rows: step for (name, rows), step in found.items() if name == s.name})
        for s in stages
    ]


def by_size(updates: Mapping[int, CompiledUpdate]) -> CompiledUpdate:
    """Returns an update that runs the one of the size of its batch."""
    if len(updates) == 1:
        return next(iter(updates.values()))

    def update(
        state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        return updates[batch.tokens_BL.shape[0]](state, teacher_params, batch)

    return update


def update_name(program: Program, stage: Stage, rows: int) -> str:
    """Returns the name of an update: its stage's, with `rows` if sizes change."""
    if isinstance(program.experiment.batch_size, int):
        return stage.name
    return f"{stage.name}.{rows}"


def compile_update(
    program: Program, stage: Stage, rows: int | None = None
) -> CompiledUpdate:
    """Compiles the update of `stage`, from shapes alone; see `lower_update`."""
    return lower_update(program, stage, rows).compile()


def lower_update(
    program: Program, stage: Stage, rows: int | None = None
) -> jax.stages.Lowered:
    """Returns the lowered update of `stage` for batches of `rows`.

    By default `rows` is the size of the experiment's largest batch.
    """
    rows = program.experiment.largest_batch if rows is None else rows
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state)
    step = program.update(stage, rows)

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
    batch = abstract_batch(
        program.partitioning,
        rows,
        program.experiment.seq_len,
        has_prefix=stage.data.has_prefix,
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
