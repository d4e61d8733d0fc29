"""Suggestions for a run that does not fit."""

from __future__ import annotations

from salt_jax.compiling.compile import Report
from salt_jax.mesh.memory import GIB


def advice(report: Report) -> str:
    """Returns up to three changes that save the most memory by formula, as one line."""
    planned = report.largest.planned
    rows = planned.made.get("saved activations", 0)
    states = sum(planned.held.values()) + planned.made.get("gradients", 0)
    loss = planned.loss
    savings = {"a mesh of twice the chips": states // 2}
    # Less than "full" does, which recomputes two thirds at least.
    if 2 * planned.flops.recomputed < planned.flops.student_forward and rows:
        savings["remat='full' for the student"] = rows * 2 // 3
    if planned.stage is not None:
        savings["twice the num_microbatches"] = rows // 2
    elif planned.name in ("scoring", "evaluation"):
        savings["a smaller batch"] = report.largest.peak - states
    if loss is not None:
        savings["half the loss_chunk_tokens"] = loss.logits_bytes // 2
    best = sorted(savings.items(), key=lambda item: -item[1])[:3]
    return "; ".join(
        f"{what} (saves about {size / GIB:.1f} GiB)" for what, size in best
    )
