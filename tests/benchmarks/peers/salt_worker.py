"""The stage-one step of this package."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from worker import Model, Sizes, make_student, make_teacher, make_tokens, serve

from salt_jax.batch import Batch
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.transformer import Params, Transformer, parameter_facts
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.training.train_step import TrainState, Update


def shape_of(sizes: Sizes, num_layers: int) -> TransformerConfig:
    """Returns the shape of a decoder as Llama has it."""
    return TransformerConfig(
        vocab_size=sizes.vocab,
        num_layers=num_layers,
        embed_dim=sizes.embed,
        num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        mlp_dim=sizes.mlp,
        activation="silu",
        scale_embedding=False,
        rope_theta=sizes.rope_theta,
        norm_eps=sizes.norm_eps,
        dtype="float32",
        remat="none",
        scan_layers=False,
    )


def params_of(model: Model) -> Params:
    """Returns parameters in the tree of `Transformer`."""
    width = model.embedding_VD.shape[1]

    def norm():
        return {"scale": np.ones(width, np.float32)}

    params = {"embedding_VD": model.embedding_VD, "final_norm": norm()}
    for i, layer in enumerate(model.layers):
        named = {name.rsplit("_", 1)[0]: x for name, x in layer.items()}
        mlp = {name: named.pop(name) for name in ("gate", "up", "down")}
        params[f"layer_{i}"] = {
            "attention_norm": norm(),
            "attention": named,
            "mlp_norm": norm(),
            "mlp": mlp,
        }
    return {"params": params}


def make_batch(sizes: Sizes) -> Batch:
    """Returns rows that are one document each."""
    tokens = make_tokens(sizes)
    shape = (sizes.batch, sizes.length)
    ones = np.ones(shape, np.int32)
    positions = np.broadcast_to(np.arange(sizes.length, dtype=np.int32), shape)
    return Batch(
        tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones, positions
    )


def make_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step that goes on from the one before, and gives the loss."""
    partitioning = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    student = Transformer(shape_of(sizes, sizes.student_layers), partitioning)
    optimizer = AdamW(
        learning_rate=Constant(value=sizes.learning_rate),
        b1=sizes.b1,
        b2=sizes.b2,
        weight_decay=sizes.weight_decay,
        clip_norm=sizes.clip_norm,
    ).build(parameter_facts(student))
    teacher, teacher_params, kd_weight = None, None, Constant(value=0.0)
    if sizes.kd_weight is not None:
        teacher = Transformer(shape_of(sizes, sizes.teacher_layers), partitioning)
        teacher_params = params_of(make_teacher(sizes))
        kd_weight = Constant(value=sizes.kd_weight)
    update = Update(
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        kd_weight=kd_weight,
        chunk_tokens=sizes.chunk_tokens,
    )
    sharding = partitioning.sharding()
    teacher_params, batch = jax.device_put(
        (teacher_params, make_batch(sizes)), sharding
    )

    def init(params: Params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = jax.jit(init, out_shardings=sharding)(params_of(make_student(sizes)))
    run = jax.jit(update, donate_argnums=0, out_shardings=(sharding, None))

    def step() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(run(state, teacher_params, batch))
        return float(metrics["loss"].mean())

    return step


if __name__ == "__main__":
    serve(make_step, f"jax {jax.__version__}")
