"""The trainers of Tunix with its Llama: of distillation, and of a model alone."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.distillation.distillation_trainer import (
    DistillationTrainer,
    TrainingConfig,
    TrainingInput,
)
from tunix.distillation.strategies import LogitStrategy
from tunix.models.llama3 import model as llama
from tunix.sft.peft_trainer import PeftTrainer
from worker import Model, Sizes, make_student, make_teacher, make_tokens, serve


def load(sizes: Sizes, model: Model) -> llama.Llama3:
    """Returns a Llama with the parameters of `model`."""
    config = llama.ModelConfig(
        num_layers=len(model.layers),
        vocab_size=sizes.vocab,
        embed_dim=sizes.embed,
        hidden_dim=sizes.mlp,
        num_heads=sizes.heads,
        head_dim=sizes.head_dim,
        num_kv_heads=sizes.kv_heads,
        rope_theta=int(sizes.rope_theta),
        norm_eps=sizes.norm_eps,
        weight_tying=True,
    )
    ours = llama.Llama3(config, rngs=nnx.Rngs(0))
    ours.embedder.input_embedding.value = jnp.asarray(model.embedding_VD)
    for layer, weights in zip(ours.layers, model.layers, strict=True):
        layer.attn.q_proj.w.value = jnp.asarray(weights["query_DHK"])
        layer.attn.k_proj.w.value = jnp.asarray(weights["key_DGK"])
        layer.attn.v_proj.w.value = jnp.asarray(weights["value_DGK"])
        layer.attn.o_proj.w.value = jnp.asarray(weights["out_HKD"])
        layer.mlp.gate_proj.kernel.value = jnp.asarray(weights["gate_DF"])
        layer.mlp.up_proj.kernel.value = jnp.asarray(weights["up_DF"])
        layer.mlp.down_proj.kernel.value = jnp.asarray(weights["down_FD"])
    return ours


def forward_fn(sizes: Sizes) -> Callable[..., jax.Array]:
    """Returns a function that makes logits of rows that are one document each."""
    shape = (sizes.batch, sizes.length)
    causal = jnp.tril(jnp.ones((sizes.length, sizes.length), bool))

    def logits(model, input_tokens, input_mask):
        positions = jnp.broadcast_to(jnp.arange(sizes.length), shape)
        mask = jnp.broadcast_to(causal, (sizes.batch, *causal.shape))
        return model(input_tokens[:, :-1], positions, None, mask)[0]

    return logits


def make_strategy(sizes: Sizes) -> LogitStrategy:
    """Returns the blend of both losses."""
    logits = forward_fn(sizes)

    def labels(input_tokens, input_mask):
        return jax.nn.one_hot(input_tokens[:, 1:], sizes.vocab)

    return LogitStrategy(
        student_forward_fn=logits,
        teacher_forward_fn=logits,
        labels_fn=labels,
        temperature=1.0,
        alpha=sizes.kd_weight,
    )


def mean_entropy(
    strategy: LogitStrategy, teacher: llama.Llama3, batch: TrainingInput
) -> float:
    """Returns the teacher's mean entropy, in nats."""
    inputs = {"input_tokens": batch.input_tokens, "input_mask": batch.input_mask}
    logits_BLV = strategy.get_teacher_outputs(teacher, inputs)
    rows = []
    for logits_LV in logits_BLV:
        log_q_LV = jax.nn.log_softmax(logits_LV)
        rows.append(-jnp.sum(jnp.exp(log_q_LV) * log_q_LV, axis=-1).mean())
    return float(sum(rows)) / len(rows)


class _KeepsMetrics:
    """A trainer that keeps the metrics of its last step."""

    metrics: dict[str, jax.Array]

    def _post_process_train_step(self, aux: Any) -> None:
        self.metrics = aux


class Distilling(_KeepsMetrics, DistillationTrainer):
    """The trainer of a student."""


class Training(_KeepsMetrics, PeftTrainer):
    """The trainer of a model alone; it trains all parameters of one without LoRA."""


def make_optimizer(sizes: Sizes) -> optax.GradientTransformation:
    """Returns AdamW, which decays matrices only."""
    return optax.chain(
        optax.clip_by_global_norm(sizes.clip_norm),
        optax.adamw(
            sizes.learning_rate,
            b1=sizes.b1,
            b2=sizes.b2,
            weight_decay=sizes.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )


def plain_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step of the trainer of a model alone, which gives its loss."""
    tokens = make_tokens(sizes)
    batch = {"input_tokens": tokens, "input_mask": tokens >= 0}
    make_logits = forward_fn(sizes)

    def loss_fn(model, input_tokens, input_mask):
        logits = make_logits(model, input_tokens, input_mask)
        labels = jax.nn.one_hot(input_tokens[:, 1:], sizes.vocab)
        # The formula of the trainer's own loss, which reads one more token.
        loss = -jnp.sum(jax.nn.log_softmax(logits) * labels) / input_tokens[:, 1:].size
        return loss, {"loss": loss}

    trainer = Training(
        load(sizes, make_student(sizes)),
        make_optimizer(sizes),
        TrainingConfig(eval_every_n_steps=10**9),
    )
    trainer = trainer.with_loss_fn(loss_fn, has_aux=True)
    trainer = trainer.with_gen_model_input_fn(lambda batch: batch)
    trainer.is_managed_externally = True

    def step() -> float:
        trainer.train([batch])
        jax.block_until_ready(nnx.state(trainer.model))
        return float(trainer.metrics["loss"])

    return step


def make_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step that goes on from the one before, and gives the loss."""
    return plain_step(sizes) if sizes.kd_weight is None else taught_step(sizes)


def taught_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step of the distillation trainer, which gives the blended loss."""
    teacher = load(sizes, make_teacher(sizes))
    student = load(sizes, make_student(sizes))
    strategy = make_strategy(sizes)
    tokens = make_tokens(sizes)
    batch = TrainingInput(input_tokens=tokens, input_mask=tokens >= 0)
    trainer = Distilling(
        student,
        teacher,
        strategy,
        make_optimizer(sizes),
        TrainingConfig(eval_every_n_steps=10**9),
    )
    # So that `train` may be called again with the next examples.
    trainer.is_managed_externally = True
    # The trainer's soft loss is KL, which is cross-entropy less this.
    entropy = mean_entropy(strategy, teacher, batch)

    def step() -> float:
        trainer.train([batch])
        jax.block_until_ready(nnx.state(trainer.model))
        soft = float(trainer.metrics["distill/soft_loss"]) + entropy
        hard = float(trainer.metrics["distill/hard_loss"])
        return (1.0 - sizes.kd_weight) * hard + sizes.kd_weight * soft

    return step


if __name__ == "__main__":
    version = importlib.metadata.version("google-tunix")
    serve(make_step, f"tunix {version}, jax {jax.__version__}")
