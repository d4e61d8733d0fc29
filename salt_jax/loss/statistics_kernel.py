"""A kernel for TPUs that multiplies and makes the softmax statistics meanwhile.

The statistics of one block of logits are made while the next is multiplied. A block of
the vocabulary stays on the chip for all tokens of a chunk.

Dimensions: V vocabulary, D embed, C tokens of a chunk, P cores, S statistics, N lanes.
Inside `shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from salt_jax.loss.kernel_blocks import ROWS, KernelBlocks
from salt_jax.loss.lane_statistics import LANES, Block, LaneStatistics, Statistics
from salt_jax.model.unembedding import Unembedding

_COLUMNS = 256  # Of the vocabulary, multiplied at a time.


@dataclasses.dataclass(frozen=True)
class StatisticsKernel:
    """The static arguments of the kernel."""

    statistics: LaneStatistics
    blocks: KernelBlocks
    keeps_logits: bool  # Whether the logits are written to memory.

    def run(
        self,
        models: Sequence[Unembedding],
        targets_C: jax.Array,
        end: jax.Array | int,
        target_C: jax.Array | None = None,
    ) -> tuple[Statistics, Sequence[jax.Array]]:
        """Returns the statistics of each lane, [C, N], and the logits_CV if kept.

        Args:
          models: The student and perhaps its teacher, with hidden states [C, D].
          targets_C: The targets, relative to the device's first id.
          end: The first id that is padding, likewise.
          target_C: The target's logit for "above".
        """
        size_C, size_V = targets_C.shape[0], models[0].embedding_VD.shape[0]
        cores, names = self.blocks.num_cores, self.statistics.names
        columns = [targets_C[:, None]]
        columns += [] if target_C is None else [target_C[:, None]]
        operands = [jnp.asarray(end, jnp.int32).reshape(1, 1), *columns]
        for model in models:
            operands += [model.hidden_BLD, model.embedding_VD]
        found, *logits = self._call(models, columns, size_C, size_V)(*operands)
        lanes = jnp.moveaxis(found, 0, 2).reshape(len(names), size_C, cores * LANES)
        return dict(zip(names, lanes, strict=True)), logits

    def _call(self, models, columns, size_C, size_V):
        C, V = self.blocks.tokens(size_C), self.blocks.vocab(size_V)
        cores, num_names = self.blocks.num_cores, len(self.statistics.names)
        steps = size_V // V // cores
        whole = lambda x: pl.BlockSpec(x.shape, lambda p, v, c: (0, 0))
        specs = [pl.BlockSpec(memory_space=pltpu.SMEM), *map(whole, columns)]
        for model in models:
            width = model.embedding_VD.shape[1]
            part = pl.BlockSpec((V, width), lambda p, v, c: (p * steps + v, 0))
            specs += [whole(model.hidden_BLD), part]
        found = (cores, num_names, size_C, LANES)
        shapes = [found] + [(size_C, size_V)] * len(models) * self.keeps_logits
        out = [pl.BlockSpec((None, *found[1:]), lambda p, v, c: (p, 0, 0, 0))]
        tile = pl.BlockSpec((C, V), lambda p, v, c: (c, p * steps + v))
        held = [pltpu.VMEM((C, V), jnp.float32)] * len(models)
        return pl.pallas_call(
            _Body(self, tuple(model.softcap for model in models), steps),
            grid=(cores, steps, size_C // C),
            in_specs=specs,
            out_specs=out + ([tile] * len(models) if self.keeps_logits else []),
            out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
            scratch_shapes=[] if self.keeps_logits else held,
            compiler_params=self.blocks.params,
            cost_estimate=self._cost(models, size_C, size_V),
            interpret=self.blocks.interpret,
            name="loss_statistics",
        )

    def _cost(self, models, size_C, size_V):
        widths = sum(model.embedding_VD.shape[1] for model in models)
        itemsize = models[0].embedding_VD.dtype.itemsize
        logits = 4 * len(models) * size_C * size_V if self.keeps_logits else 0
        return pl.CostEstimate(
            flops=2 * size_C * size_V * widths,
            bytes_accessed=itemsize * (size_C + size_V) * widths + logits,
            transcendentals=size_C * size_V * len(models),
        )


@dataclasses.dataclass(frozen=True)
class _Body:
    """One step of the grid: a block of the vocabulary, and one of the tokens."""

    kernel: StatisticsKernel
    softcaps: tuple[float | None, ...]
    steps: int

    def __call__(self, end_ref, targets_ref, *refs):
        statistics, num_models = self.kernel.statistics, len(self.softcaps)
        target_ref, refs = (refs[0], refs[1:]) if statistics.with_rank else (None, refs)
        models = [refs[2 * i : 2 * i + 2] for i in range(num_models)]
        found_ref, *logits_refs = refs[2 * num_models :]
        C, V = logits_refs[0].shape
        first_row, width = pl.program_id(2) * C, min(_COLUMNS, V)

        @pl.when(pl.program_id(1) == 0)
        def _():
            for i, name in enumerate(statistics.names):
                first = jnp.full((C, LANES), statistics.first(name), jnp.float32)
                found_ref[i, pl.ds(first_row, C)] = first

        def multiply(columns):
            for (hidden, embedding), softcap, logits in zip(
                models, self.softcaps, logits_refs, strict=True
            ):
                x = _product(hidden[pl.ds(first_row, C), :], embedding[columns, :])
                capped = x if softcap is None else softcap * jnp.tanh(x / softcap)
                logits[:, columns] = capped

        add = functools.partial(
            self._add, end_ref, targets_ref, target_ref, found_ref, logits_refs
        )
        multiply(pl.ds(0, width))
        for begin in range(0, V, width):
            if begin + width < V:
                multiply(pl.ds(begin + width, width))
            for row in range(0, C, min(ROWS, C)):
                add(row, range(begin, begin + width, LANES))

    def _add(self, end_ref, targets_ref, target_ref, found_ref, logits_refs, row, ids):
        """Adds the logits of some tokens to their statistics."""
        statistics, (C, V) = self.kernel.statistics, logits_refs[0].shape
        size = min(ROWS, C)
        own, rows = pl.ds(row, size), pl.ds(pl.program_id(2) * C + row, size)
        first_id = (pl.program_id(0) * self.steps + pl.program_id(1)) * V
        offset, end = targets_ref[rows, :] - first_id, end_ref[0, 0] - first_id
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, LANES), 1)
        blocks = []
        for j in ids:
            x = [*(ref[own, pl.ds(j, LANES)] for ref in logits_refs), None]
            is_real = lane < end - j if statistics.with_padding else None
            blocks.append(Block(x[0], x[1], lane == offset - j, is_real))
        target_R1 = None if target_ref is None else target_ref[rows, :]
        old = {name: found_ref[i, rows] for i, name in enumerate(statistics.names)}
        new = statistics.updated(old, blocks, target_R1)
        for i, name in enumerate(statistics.names):
            found_ref[i, rows] = new[name]


def _product(x_CD, y_VD):
    return jax.lax.dot_general(
        x_CD, y_VD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
