"""How much arithmetic a decoder takes, by formula.

`Compiled.cost_analysis` counts the body of a scan once, whatever its length, so it
cannot be asked. All figures are per token and count multiply and add as two.
"""

from __future__ import annotations

from salt_jax.model.config import TransformerConfig


def matmul_params(config: TransformerConfig) -> int:
    """Returns how many parameters each token is multiplied with in the layers."""
    c = config
    attention = c.embed_dim * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
    return c.num_layers * (attention + 3 * c.embed_dim * c.mlp_dim)


def forward_flops(config: TransformerConfig, seq_len: int) -> int:
    """Returns the FLOPs of a forward pass per token, with logits.

    Attention is counted over the full square of `seq_len`, as it is computed.
    """
    c = config
    scores_and_mix = 4 * c.num_layers * c.num_heads * c.head_dim * seq_len
    unembedding = 2 * c.embed_dim * c.vocab_size
    return 2 * matmul_params(c) + scores_and_mix + unembedding


def step_flops(
    student: TransformerConfig, teacher: TransformerConfig | None, seq_len: int
) -> int:
    """Returns the model FLOPs of a training step per token.

    Three forward passes for the student (one forward, two backward) and one for the
    teacher if there is one. Recomputation is not counted: it is a choice of the
    program, not of the model.
    """
    total = 3 * forward_flops(student, seq_len)
    return total + (0 if teacher is None else forward_flops(teacher, seq_len))
