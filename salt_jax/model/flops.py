"""Model FLOPs per token, by formula.

A multiply-add counts as two FLOPs. `Compiled.cost_analysis` is no alternative: it
counts the body of a scan once, whatever the length of the scan.
"""

from __future__ import annotations

import dataclasses

from salt_jax.model.config import TransformerConfig


def matmul_params(config: TransformerConfig) -> int:
    """Returns the number of parameters in the layers' matrices, embeddings excluded."""
    c = config
    attention = c.embed_dim * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
    return c.num_layers * (attention + 3 * c.embed_dim * c.mlp_dim)


def forward_flops(config: TransformerConfig, seq_len: int) -> int:
    """Returns the FLOPs per token of a forward pass, logits included.

    Attention counts all `seq_len` keys for each token, masked ones too.
    """
    c = config
    scores_and_mix = 4 * c.num_layers * c.num_heads * c.head_dim * seq_len
    unembedding = 2 * c.embed_dim * c.vocab_size
    return 2 * matmul_params(c) + scores_and_mix + unembedding


def step_flops(
    student: TransformerConfig, teacher: TransformerConfig | None, seq_len: int
) -> int:
    """Returns the model FLOPs per token of a training step.

    The student counts three times its forward pass: once forward, twice backward. The
    teacher, if there is one, counts one forward pass. Rematerialization is excluded.
    """
    total = 3 * forward_flops(student, seq_len)
    return total + (0 if teacher is None else forward_flops(teacher, seq_len))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlopsBill:
    """FLOPs per token of a step, by purpose."""

    student_forward: int = 0
    student_backward: int = 0
    recomputed: int = 0
    teacher_forward: int = 0
    loss: int = 0

    @property
    def total(self) -> int:
        """The sum of all purposes."""
        return sum(dataclasses.asdict(self).values())

    @property
    def by_part(self) -> dict[str, int]:
        """The parts of a run's bill; all but "recomputation" are model FLOPs."""
        return {
            "student": self.student_forward + self.student_backward,
            "recomputation": self.recomputed,
            "teacher": self.teacher_forward,
            "loss": self.loss,
        }


def training_bill(
    student: TransformerConfig, teacher: TransformerConfig | None, seq_len: int
) -> FlopsBill:
    """Returns the FLOPs per token of a training step, rematerialization included."""
    forward = _layers(student, seq_len)
    widths = 3 * student.embed_dim + (teacher.embed_dim if teacher else 0)
    return FlopsBill(
        student_forward=forward,
        student_backward=2 * forward,
        recomputed=_recomputed(student, seq_len),
        teacher_forward=_layers(teacher, seq_len) if teacher else 0,
        loss=2 * student.vocab_size * widths,
    )


def reading_bill(model: TransformerConfig, seq_len: int) -> FlopsBill:
    """Returns the FLOPs per token of a forward pass with its loss."""
    return FlopsBill(
        student_forward=_layers(model, seq_len),
        loss=2 * model.vocab_size * model.embed_dim,
    )


def _layers(config: TransformerConfig, seq_len: int) -> int:
    return forward_flops(config, seq_len) - 2 * config.embed_dim * config.vocab_size


def _recomputed(config: TransformerConfig, seq_len: int) -> int:
    """Returns the FLOPs per token that the backward pass recomputes.

    A block that is recomputed leaves out its last product, unless a norm follows it:
    no gradient needs the result.
    """
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * seq_len
    last = 2 * config.num_layers * config.mlp_dim * config.embed_dim
    heads = config.num_heads + 2 * config.num_kv_heads
    projected = 2 * config.num_layers * config.embed_dim * config.head_dim * heads
    full = _layers(config, seq_len) - (0 if config.post_norms else last)
    return {
        "none": 0,
        "save_dots": 0,
        "save_dots_without_batch": attention,
        "save_attention": full - attention - projected,
        "full": full,
    }[config.remat]
