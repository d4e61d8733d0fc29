"""What computes the loss of each stage of an experiment."""

from __future__ import annotations

from salt_jax.config import Experiment, Stage
from salt_jax.loss.kernel_choice import LossKernel
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.partitioning import Partitioning


def loss_kernel(
    experiment: Experiment, partitioning: Partitioning, stage: Stage, rows: int
) -> LossKernel:
    """Returns what computes the loss of `stage` in batches of `rows`.

    Raises:
      ValueError: the kernel that is named cannot be used.
    """
    distillation = stage.distillation
    return LossKernel.of_shapes(
        experiment.loss_kernel,
        TokenChunks(partitioning, experiment.loss_chunk_tokens),
        rows // experiment.microbatches(rows),
        experiment.seq_len,
        experiment.model,
        distillation.teacher if distillation else None,
    )


def log_loss_kernels(experiment: Experiment, partitioning: Partitioning) -> None:
    """Logs why losses of an experiment on TPUs are not computed by kernels.

    Raises:
      ValueError: the kernel that is named cannot be used.
    """
    for stage in experiment.stages:
        for rows in experiment.batches.distinct(0, experiment.total_steps):
            loss_kernel(experiment, partitioning, stage, rows).log(stage.name)
