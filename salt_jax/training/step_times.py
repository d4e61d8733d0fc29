"""Step times of several updates, measured side by side.

The clock of a run also counts what else the machine did meanwhile, so the seconds of
two runs do not compare. Here blocks of steps of each update alternate in random order:
a slow minute falls on all of them. Parameters and batches are random, and the time to
load batches is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from salt_jax import config
from salt_jax.batch import Batch
from salt_jax.config import Experiment, Stage
from salt_jax.model.flops import step_flops
from salt_jax.training.compiled_updates import abstract_batch, compile_update
from salt_jax.training.program import Program
from salt_jax.training.step_costs import cost_of

Work = Callable[[], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Step time of one stage's update."""

    name: str  # Of its experiment and stage.
    cost: Mapping[str, Any]  # What decides the time: see `cost_of`.
    flops: float  # Model FLOPs of a step.
    seconds: Sequence[float]  # Of a step: the mean of each block.

    @property
    def median(self) -> float:
        """Seconds of a step, the median over blocks."""
        return float(np.median(self.seconds))

    @property
    def variation(self) -> float:
        """The coefficient of variation of the blocks."""
        return float(np.std(self.seconds) / np.mean(self.seconds))

    def describe(self, plain: StepTime) -> dict[str, Any]:
        """Returns the numbers as JSON types, with the ratio to a plain update."""
        ratios = np.divide(self.seconds, plain.seconds)
        return dataclasses.asdict(self) | {
            "blocks": len(self.seconds),
            "median": self.median,
            "quartiles": np.quantile(self.seconds, (0.25, 0.75)).tolist(),
            "coefficient_of_variation": self.variation,
            "ratio_to_plain": {
                "median": float(np.median(ratios)),
                "quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
            },
        }


def time_steps(
    experiments: Mapping[str, Experiment],
    *,
    rounds: int,
    steps_per_block: int,
    devices: Sequence[jax.Device] | None = None,
) -> list[StepTime]:
    """Measures each distinct update of some experiments.

    Args:
      experiments: By name. The first one's plain update is always measured.
      rounds: Blocks of each update.
      steps_per_block: Steps between two readings of the clock.
      devices: What to compute on; by default all devices.

    Returns:
      One for each update, the plain update of the first experiment first.

    Raises:
      ValueError: a count is not positive, or an experiment does not fit the devices.
    """
    if min(rounds, steps_per_block) < 1:
        raise ValueError(
            f"rounds={rounds} and steps_per_block={steps_per_block}: both need to be "
            "at least 1."
        )
    found: dict[str, tuple[dict[str, Any], float, Work]] = {}
    for name, experiment in experiments.items():
        steppers = Steppers(experiment, devices)
        for stage, rows in _updates(experiment, with_plain=not found):
            cost = cost_of(config.as_json(experiment), config.as_json(stage), rows)
            if not any(cost == other for other, *_ in found.values()):
                work = functools.partial(steppers.compile(stage, rows), steps_per_block)
                flops = _flops_per_step(experiment, stage, rows)
                size = "" if isinstance(experiment.batch_size, int) else f".{rows}"
                found[f"{name}/{stage.name}{size}"] = cost, flops, work
    logging.info(
        "Timing %s: %d blocks of %d steps each.",
        ", ".join(found),
        rounds,
        steps_per_block,
    )
    seconds = measure([work for *_, work in found.values()], rounds) / steps_per_block
    return [
        StepTime(name=name, cost=cost, flops=flops, seconds=row.tolist())
        for (name, (cost, flops, _)), row in zip(found.items(), seconds, strict=True)
    ]


class Steppers:
    """Updates of one experiment on random parameters and batches.

    All of them share one training state, so that memory holds it once.
    """

    def __init__(
        self, experiment: Experiment, devices: Sequence[jax.Device] | None = None
    ):
        """Makes a state of fresh parameters, whatever the experiment starts from."""
        fresh = dataclasses.replace(experiment, initial_export=None)
        self._program = Program.on(fresh, devices)
        self._program.check_memory()
        self._state = self._program.fresh_state()

    def compile(self, stage: Stage, rows: int | None = None) -> Callable[[int], None]:
        """Returns a function that makes so many steps and waits for the last.

        By default `rows` is the size of the experiment's largest batch.
        """
        program = self._program
        rows = program.experiment.largest_batch if rows is None else rows
        update = compile_update(program, stage, rows)
        teacher = None
        if stage.distillation is not None:
            teacher = _random_like(program.abstract_teacher(stage.distillation))
        batch = _random_batch(program, stage, rows)

        def steps(count: int) -> None:
            for _ in range(count):
                self._state, metrics = update(self._state, teacher, batch)
            jax.block_until_ready((self._state, metrics))

        return steps


def measure(works: Sequence[Work], rounds: int) -> np.ndarray:
    """Returns the seconds of each work in every round, after one that warms up.

    The order is drawn anew for each round: otherwise what one work leaves in the caches
    would always fall on the same next one. It is the same order in every process.
    """
    draw = np.random.default_rng(0)
    seconds = np.empty((len(works), rounds + 1))
    for number in range(rounds + 1):
        for i in draw.permutation(len(works)):
            begin = time.perf_counter()
            works[i]()
            seconds[i, number] = time.perf_counter() - begin
    return seconds[:, 1:]


def _updates(
    experiment: Experiment, *, with_plain: bool
) -> Iterator[tuple[Stage, int]]:
    """Yields stages and batch sizes; the plain update has the largest."""
    *_, last = experiment.stages
    if with_plain:
        name = last.name if last.distillation is None else f"{last.name}_plain"
        plain = dataclasses.replace(last, name=name, distillation=None)
        yield plain, experiment.largest_batch
    for stage in experiment.stages:
        for rows in experiment.sizes_of(stage.name):
            yield stage, rows


def _flops_per_step(experiment: Experiment, stage: Stage, rows: int) -> float:
    teacher = stage.distillation.teacher if stage.distillation else None
    per_token = step_flops(experiment.model, teacher, experiment.seq_len)
    return float(per_token * rows * experiment.seq_len)


def _random_batch(program: Program, stage: Stage, rows: int) -> Batch:
    """Returns rows of one document each, on the mesh."""
    experiment, length = program.experiment, program.experiment.seq_len
    like = abstract_batch(
        program.partitioning, rows, length, has_prefix=stage.data.has_prefix
    )

    def init(key: jax.Array) -> Batch:
        shape = (rows, length)
        tokens_BL = jax.random.randint(key, shape, 0, experiment.model.vocab_size)
        positions_BL = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        return Batch(
            tokens_BL=tokens_BL,
            targets_BL=jnp.roll(tokens_BL, -1, axis=1),
            weights_BL=jnp.ones(shape),
            segments_BL=jnp.ones(shape, jnp.int32),
            positions_BL=positions_BL,
            prefix_BL=None if like.prefix_BL is None else positions_BL < length // 2,
        )

    shardings = jax.tree.map(lambda x: x.sharding, like)
    return jax.jit(init, out_shardings=shardings)(jax.random.key(0))


def _random_like(abstract: Any) -> Any:
    """Returns small random numbers in the shapes, dtypes and shardings of `abstract`.

    Zeros would do for a CPU; chips draw less power on them, and run faster.
    """
    leaves, tree = jax.tree.flatten(abstract)

    def init(key: jax.Array) -> list[jax.Array]:
        return [
            jax.random.randint(k, x.shape, -127, 128, jnp.int32).astype(x.dtype)
            if jnp.issubdtype(x.dtype, jnp.integer)
            else (0.02 * jax.random.normal(k, x.shape)).astype(x.dtype)
            for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]

    shardings = [x.sharding for x in leaves]
    filled = jax.jit(init, out_shardings=shardings)(jax.random.key(1))
    return jax.tree.unflatten(tree, filled)
