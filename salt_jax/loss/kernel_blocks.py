"""The blocks of the loss's kernels, and the memory that they take on a chip.

Dimensions: V vocabulary, D embed, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses

from jax.experimental.pallas import tpu as pltpu

from salt_jax.loss.lane_statistics import LANES

_BLOCKS = (512, 256, 128, 64, 32, 16)  # Tokens or vocabulary of a product.
ROWS = 32  # Tokens whose statistics are in registers at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelBlocks:
    """Sizes of blocks for a chip.

    A kernel holds all tokens of a chunk, and reads each embedding once.
    """

    least_tokens: int = 128  # Of a block; fewer leave a TPU's products idle.
    num_cores: int = 1  # Each takes a part of the vocabulary.
    vmem_bytes: int = 128 * 2**20  # A core's memory.
    interpret: bool = False  # Run by JAX on any device, for tests.

    def tokens(self, size_C: int) -> int:
        """Returns the tokens of a block; 0 if no size divides the chunk."""
        return max(
            (n for n in _BLOCKS if n >= self.least_tokens and size_C % n == 0),
            default=0,
        )

    def vocab(self, size_V: int) -> int:
        """Returns the vocabulary of a block; 0 if no size divides a core's part."""
        part, rest = divmod(size_V, self.num_cores)
        sizes = (n for n in _BLOCKS if n >= LANES and part % n == 0 and not rest)
        return max(sizes, default=0)

    @property
    def available_bytes(self) -> int:
        """The memory of a core that a kernel may use."""
        return self.vmem_bytes * 7 // 8

    @property
    def params(self) -> pltpu.CompilerParams:
        """The compiler's parameters: cores, then blocks of the vocabulary, tokens."""
        return pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=self.available_bytes,
        )

    def needed(self, size_C: int, student_dim: int, teacher_dim: int = 0) -> int:
        """Returns the bytes of the larger kernel, by formula, with a gradient.

        It counts two buffers of each block, as the pipeline has.
        """
        block = _BLOCKS[0] * (student_dim + teacher_dim)
        logits = 2 * 4 * _BLOCKS[0] ** 2 * (2 if teacher_dim else 1)
        columns = 4 * size_C * LANES
        reading = 2 * 2 * (size_C * (student_dim + teacher_dim) + block)
        reading += logits + 2 * 12 * columns
        gradient = 2 * (2 + 4) * size_C * student_dim + logits + 4 * columns
        gradient += 2 * (2 + 4 + 4) * _BLOCKS[0] * student_dim
        return max(reading, gradient)
