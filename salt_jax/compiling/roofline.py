"""FLOPs and memory traffic of the loss by formula, and lower bounds in seconds.

Dimensions: V vocabulary, D embed, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses

from salt_jax.loss.kernel_choice import MOST_ON_CHIP
from salt_jax.mesh.chips import Chip

# Passes over logits in HBM, as compiled programs show. XLA: the product writes them and
# finds their maximum; a second pass reads them for all sums. A third counts those above
# the target's; with a gradient, each of its two products reads them instead. Kernels:
# the product writes them for a gradient alone, whose products read them once together.
READING_PASSES = {"xla": 3, "pallas": 0}
GRADIENT_PASSES = {"xla": 4, "pallas": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTiling:
    """The sizes that determine the cost of the chunked loss on one chip.

    Chips that shard the vocabulary pool their tokens, and each chip computes its part
    of V for all of them.
    """

    tokens: int  # Tokens of one chip, before pooling.
    chunk_tokens: int
    vocab_size: int
    vocab_shards: int = 1
    student_dim: int
    teacher_dim: int = 0  # 0: there is no teacher.
    embedding_bytes: int = 2
    gradient_bytes: int = 4
    gradient: bool = True  # False: the forward pass alone.
    kernel: str = "xla"  # What computes it, "xla" or "pallas".

    @property
    def num_chunks(self) -> int:
        """The number of chunks of a chip."""
        return -(-self.tokens * self.vocab_shards // self.chunk_tokens)

    @property
    def matmul_flops(self) -> int:
        """FLOPs of the logits of both models and of the student's two gradients."""
        student = (3 if self.gradient else 1) * self.student_dim
        return 2 * self.tokens * self.vocab_size * (student + self.teacher_dim)

    @property
    def embedding_traffic(self) -> int:
        """Bytes of embeddings and of the student's gradient, read or written."""
        student = self.embedding_bytes
        if self.gradient:
            student += self.embedding_bytes + 2 * self.gradient_bytes
        widths = self.student_dim * student + self.teacher_dim * self.embedding_bytes
        return self.num_chunks * (self.vocab_size // self.vocab_shards) * widths

    @property
    def logits_bytes(self) -> int:
        """Bytes of one chunk's float32 logits, for both models."""
        tile = min(self.chunk_tokens, self.tokens * self.vocab_shards)
        models = 2 if self.teacher_dim else 1
        return models * 4 * tile * (self.vocab_size // self.vocab_shards)

    @property
    def logits_traffic(self) -> int:
        """Bytes of logits moved to or from HBM; 0 if they fit on the chip."""
        if self.kernel == "xla" and self.logits_bytes <= MOST_ON_CHIP:
            return 0
        passes = GRADIENT_PASSES if self.gradient else READING_PASSES
        return self.num_chunks * passes[self.kernel] * self.logits_bytes


def matmul_seconds(flops: float, chip: Chip | None) -> float | None:
    """Returns the seconds of `flops` at the chip's peak rate; None without a chip."""
    return None if chip is None else flops / chip.flops_per_second


def memory_seconds(num_bytes: float, chip: Chip | None) -> float | None:
    """Returns the seconds of `num_bytes` at the peak rate; None without a chip."""
    return None if chip is None else num_bytes / chip.memory_bytes_per_second
