"""A kernel for TPUs that multiplies with the gradient of logits and never stores it.

It reads the logits of both models once, and makes both products of the gradient from
them: with the embedding, and with the hidden states.

Dimensions: V vocabulary, D embed, C tokens of a chunk, K factors, R tokens at once.
Inside `shard_map`, V is the device's part of the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from salt_jax.loss.kernel_blocks import ROWS, KernelBlocks
from salt_jax.loss.lane_statistics import LANES, LOW
from salt_jax.model.unembedding import Unembedding

# The columns of `Factors`.
_TOP, _P, _TARGET, _TEACHER_TOP, _SOFT, _KD_TOP, _KD_P = range(7)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The gradient by the logits, as a factor of each token's exponentials.

    It is p * exp(student - top) - target at the target, less soft * exp((teacher -
    teacher_top) / temperature) and, if padding is masked, plus kd_p * exp(student -
    kd_top) where there is none. All are [C, 1].
    """

    top: jax.Array
    p: jax.Array
    target: jax.Array
    teacher_top: jax.Array | None = None
    soft: jax.Array | None = None
    kd_top: jax.Array | None = None
    kd_p: jax.Array | None = None

    def columns(self) -> jax.Array:
        """Returns the factors [C, K], zeros for those that there are not."""
        given = [getattr(self, field.name) for field in dataclasses.fields(self)]
        zeros_C1 = jnp.zeros_like(self.p)
        filled = [zeros_C1 if x is None else x for x in given]
        return jnp.concatenate([*filled, zeros_C1], axis=1)


@dataclasses.dataclass(frozen=True)
class GradientKernel:
    """The static arguments of the kernel."""

    blocks: KernelBlocks
    with_teacher: bool
    temperature: float
    with_padding: bool
    softcap: float | None

    def run(
        self,
        student: Unembedding,
        logits: Sequence[jax.Array],
        targets_C: jax.Array,
        end: jax.Array | int,
        factors: Factors,
        gradient_VD: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the gradient by the hidden states, and `gradient_VD` with it added.

        Args:
          student: The student, with hidden states [C, D].
          logits: The float32 logits_CV of the student and perhaps its teacher.
          targets_C: The targets, relative to the device's first id.
          end: The first id that is padding, likewise.
          factors: The factors of each token.
          gradient_VD: The gradient by the embedding so far.
        """
        (size_C, size_V), D = logits[0].shape, gradient_VD.shape[1]
        C, V = self.blocks.tokens(size_C), self.blocks.vocab(size_V)
        cores = self.blocks.num_cores
        steps = size_V // V // cores
        columns = factors.columns()
        whole = lambda x: pl.BlockSpec(x.shape, lambda p, v, c: (0, 0))
        part = pl.BlockSpec((V, D), lambda p, v, c: (p * steps + v, 0))
        tile = pl.BlockSpec((C, V), lambda p, v, c: (c, p * steps + v))
        by_hidden, by_embedding = pl.pallas_call(
            _Body(self, steps),
            grid=(cores, steps, size_C // C),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                *(pl.BlockSpec((size_C, 1), lambda p, v, c: (0, 0)), whole(columns)),
                *(whole(student.hidden_BLD), part, part),
                *([tile] * len(logits)),
            ],
            out_specs=[
                pl.BlockSpec((None, size_C, D), lambda p, v, c: (p, 0, 0)),
                part,
            ],
            out_shape=[
                jax.ShapeDtypeStruct((cores, size_C, D), jnp.float32),
                jax.ShapeDtypeStruct((size_V, D), jnp.float32),
            ],
            scratch_shapes=[pltpu.VMEM((C, V), student.hidden_BLD.dtype)],
            input_output_aliases={5: 1},
            compiler_params=self.blocks.params,
            cost_estimate=pl.CostEstimate(
                flops=4 * size_C * size_V * D,
                bytes_accessed=4 * len(logits) * size_C * size_V + 10 * size_V * D,
                transcendentals=size_C * size_V * len(logits),
            ),
            interpret=self.blocks.interpret,
            name="loss_gradient",
        )(
            *(jnp.asarray(end, jnp.int32).reshape(1, 1), targets_C[:, None], columns),
            *(student.hidden_BLD, student.embedding_VD, gradient_VD),
            *logits,
        )
        return jnp.sum(by_hidden, axis=0), by_embedding


@dataclasses.dataclass(frozen=True)
class _Body:
    """One step of the grid: a block of the vocabulary, and one of the tokens."""

    kernel: GradientKernel
    steps: int

    def __call__(self, end, targets, factors, hidden, embedding, so_far, *refs):
        *logits, by_hidden, by_embedding, dlogits = refs
        C, V = dlogits.shape
        first_id = (pl.program_id(0) * self.steps + pl.program_id(1)) * V
        rows = pl.ds(pl.program_id(2) * C, C)

        @pl.when(pl.program_id(1) == 0)
        def _():
            by_hidden[rows] = jnp.zeros((C, by_hidden.shape[1]), jnp.float32)

        @pl.when(pl.program_id(2) == 0)
        def _():
            by_embedding[...] = so_far[...]

        for row in range(0, C, min(ROWS, C)):
            self._fill(row, first_id, end, targets, factors, logits, dlogits)
        dlogits_CV = dlogits[...]
        by_hidden[rows] += _product(dlogits_CV, embedding[...], 1)
        by_embedding[...] += _product(dlogits_CV, hidden[rows, :], 0)

    def _fill(self, row, first_id, end, targets, factors, logits, dlogits):
        """Writes the gradient by the logits of a few tokens."""
        size = min(ROWS, dlogits.shape[0])
        own, rows = (
            pl.ds(row, size),
            pl.ds(pl.program_id(2) * dlogits.shape[0] + row, size),
        )
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, LANES), 1)
        offset = targets[rows, :] - first_id
        column = lambda i: jnp.broadcast_to(factors[rows, i : i + 1], (size, LANES))
        used = [_TOP, _P, _TARGET]
        if self.kernel.with_teacher:
            used += [_TEACHER_TOP, _SOFT]
            used += [_KD_TOP, _KD_P] if self.kernel.with_padding else []
        given = {i: column(i) for i in used}
        for j in range(0, dlogits.shape[1], LANES):
            x = [ref[own, pl.ds(j, LANES)] for ref in logits]
            is_real = lane < end[0, 0] - first_id - j
            gradient = self._gradient(x, lane == offset - j, is_real, given)
            dlogits[own, pl.ds(j, LANES)] = gradient.astype(dlogits.dtype)

    def _gradient(self, logits, is_target, is_real, given):
        """Returns the gradient of a block.

        It is rounded after the subtraction: if the student is nearly certain, p - 1 of
        a rounded p is nothing.
        """
        kernel, student = self.kernel, logits[0]
        x = jnp.exp(student - given[_TOP]) * given[_P]
        x -= jnp.where(is_target, given[_TARGET], 0.0)
        if kernel.with_teacher:
            teacher = logits[1]
            if kernel.with_padding:
                teacher = jnp.where(is_real, teacher, LOW)
                real = jnp.where(is_real, student, LOW)
                x += jnp.exp(real - given[_KD_TOP]) * given[_KD_P]
            shifted = teacher - given[_TEACHER_TOP]
            x -= jnp.exp(shifted * (1.0 / kernel.temperature)) * given[_SOFT]
        if kernel.softcap is not None:
            x *= 1.0 - jnp.square(student / kernel.softcap)
        return x


def _product(x_CV, y, contracted):
    """Returns the float32 product over a dimension of `x_CV` and the first of `y`."""
    dimensions = (((contracted,), (0,)), ((), ()))
    return jax.lax.dot_general(x_CV, y, dimensions, preferred_element_type=jnp.float32)
