"""Scoring a corpus with a small model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.config.checks import check_held_dtype, check_positive
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.loss import kernel_choice
from salt_jax.mesh.partitioning import AxisRules, MeshShape
from salt_jax.model.config import TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scoring a corpus with a small model, to find what is hard yet learnable."""

    scorer: TransformerConfig
    scorer_export: str
    data: PreparedText
    seq_len: int
    output: str
    ks: Sequence[int] = (1, 10, 50, 100)
    pool: int | None = None  # The number of first sequences to score; None: all.
    batch_size: int = 64  # Sequences per process.
    sequences_per_shard: int = 4096
    mesh: MeshShape = MeshShape()
    rules: AxisRules = AxisRules()
    scorer_dtype: str = "bfloat16"
    chunk_tokens: int = 1024
    loss_kernel: str = "auto"  # As in `Experiment`.

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be positive ranks, got {tuple(self.ks)}.")
        if self.pool is not None:
            check_positive(self, "pool")
        check_positive(self, "seq_len", "batch_size", "sequences_per_shard")
        check_positive(self, "chunk_tokens")
        check_held_dtype(self, "scorer_dtype")
        kernel_choice.check(self.loss_kernel)
