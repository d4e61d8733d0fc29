"""Model FLOPs per token, by formula.

A multiply-add counts as two FLOPs. `Compiled.cost_analysis` is no alternative: it
counts the body of a scan once, whatever the length of the scan.
"""

from __future__ import annotations

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
