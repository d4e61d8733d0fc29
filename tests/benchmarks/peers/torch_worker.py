"""Distillation in PyTorch, written by hand with the Llama of transformers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import transformers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from worker import (
    Model,
    Sizes,
    make_student,
    make_teacher,
    make_tokens,
    num_threads,
    serve,
)

# Of a layer: the name of each weight, and how many of its axes are inputs.
NAMES = {
    "query_DHK": ("self_attn.q_proj", 1),
    "key_DGK": ("self_attn.k_proj", 1),
    "value_DGK": ("self_attn.v_proj", 1),
    "out_HKD": ("self_attn.o_proj", 2),
    "gate_DF": ("mlp.gate_proj", 1),
    "up_DF": ("mlp.up_proj", 1),
    "down_FD": ("mlp.down_proj", 1),
}


def load(sizes: Sizes, model: Model) -> LlamaForCausalLM:
    """Returns a Llama with the parameters of `model`."""
    config = LlamaConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.embed,
        intermediate_size=sizes.mlp,
        num_hidden_layers=len(model.layers),
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        hidden_act="silu",
        rms_norm_eps=sizes.norm_eps,
        rope_theta=sizes.rope_theta,
        max_position_embeddings=sizes.length,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
        dtype="float32",
    )
    llama = LlamaForCausalLM(config)
    weights = {"model.embed_tokens.weight": model.embedding_VD}
    for i, layer in enumerate(model.layers):
        for name, (theirs, num_inputs) in NAMES.items():
            fan_in = int(np.prod(layer[name].shape[:num_inputs]))
            matrix = layer[name].reshape(fan_in, -1)
            weights[f"model.layers.{i}.{theirs}.weight"] = matrix.T
    with torch.no_grad():
        for name, x in weights.items():
            llama.get_parameter(name).copy_(torch.from_numpy(x))
    return llama


def make_optimizer(sizes: Sizes, student: LlamaForCausalLM) -> torch.optim.Optimizer:
    """Returns AdamW, which decays matrices only."""
    params = list(student.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=sizes.learning_rate,
        betas=(sizes.b1, sizes.b2),
        eps=1e-8,
        weight_decay=sizes.weight_decay,
        fused=True,
    )


def make_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step that goes on from the one before, and gives the loss."""
    torch.set_num_threads(num_threads())
    student = load(sizes, make_student(sizes)).train()
    if sizes.kd_weight is not None:
        teacher = load(sizes, make_teacher(sizes)).eval().requires_grad_(False)
    optimizer = make_optimizer(sizes, student)
    tokens = torch.from_numpy(make_tokens(sizes)).long()
    inputs_BL, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1, 1)

    def blended_targets() -> torch.Tensor:
        """Returns what the blend of both losses is the cross-entropy with."""
        with torch.no_grad():
            logits = teacher(inputs_BL).logits.flatten(0, 1)
            soft = torch.softmax(logits, dim=-1)
            del logits
            soft.mul_(sizes.kd_weight)
            hard = torch.full(targets.shape, 1.0 - sizes.kd_weight)
            return soft.scatter_add_(1, targets, hard)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        labels = targets[:, 0] if sizes.kd_weight is None else blended_targets()
        logits = student(inputs_BL).logits.flatten(0, 1)
        loss = functional.cross_entropy(logits, labels)
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), sizes.clip_norm)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    serve(make_step, versions)
