"""The distillation trainer of MaxText, and its plain training step."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import maxtext
import numpy as np
import optax
from flax import nnx
from flax.core.spmd import logical_axis_rules
from maxtext.common.train_state_nnx import TrainStateNNX
from maxtext.configs import pyconfig
from maxtext.trainers.post_train.distillation import distillation_utils
from maxtext.trainers.post_train.distillation.train_distill import (
    MaxTextDistillationTrainer,
    ModelBundle,
    create_forward_fn,
)
from maxtext.trainers.pre_train.train import train_step
from maxtext.utils import maxtext_utils, model_creation_utils
from tunix.sft.checkpoint_manager import CheckpointManager
from tunix.sft.peft_trainer import TrainingConfig
from worker import Model, Sizes, make_student, make_teacher, make_tokens, serve

CONFIG = pathlib.Path(maxtext.__file__).parent / "configs/post_train/distillation.yml"
# Of a layer: where each weight is.
NAMES = {
    "query_DHK": ("self_attention", "query"),
    "key_DGK": ("self_attention", "key"),
    "value_DGK": ("self_attention", "value"),
    "out_HKD": ("self_attention", "out"),
    "gate_DF": ("mlp", "wi_0"),
    "up_DF": ("mlp", "wi_1"),
    "down_FD": ("mlp", "wo"),
}


def config_of(sizes: Sizes, num_layers: int) -> pyconfig.HyperParameters:
    """Returns the shape of a decoder as Llama has it, in float32."""
    return pyconfig.initialize(
        ["", str(CONFIG)],
        model_name="default",
        run_name="peers",
        base_output_directory=tempfile.gettempdir(),
        enable_checkpointing=False,
        skip_jax_distributed_system=True,
        hardware="cpu",
        decoder_block="llama2",
        base_num_decoder_layers=num_layers,
        base_emb_dim=sizes.embed,
        base_num_query_heads=sizes.heads,
        base_num_kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        base_mlp_dim=sizes.mlp,
        mlp_activations=["silu", "linear"],
        vocab_size=sizes.vocab,
        logits_via_embedding=True,
        normalize_embedding_logits=False,
        normalization_layer_epsilon=sizes.norm_eps,
        rope_max_timescale=int(sizes.rope_theta),
        dtype="float32",
        weight_dtype="float32",
        attention="dot_product",
        scan_layers=False,
        remat_policy="none",
        per_device_batch_size=sizes.batch,
        max_target_length=sizes.length,
        # The optimizer is made here; this is read by the plain step alone.
        gradient_clipping_threshold=0.0,
    )


def load(config: pyconfig.HyperParameters, mesh: Any, model: Model) -> nnx.Module:
    """Returns a Llama with the parameters of `model`."""
    llama = model_creation_utils.from_pretrained(config, mesh=mesh)

    def put(variable: nnx.Variable, x: np.ndarray) -> None:
        assert variable[...].shape == x.shape, (variable[...].shape, x.shape)
        variable[...] = jnp.asarray(x)

    put(llama.token_embedder.embedding, model.embedding_VD)
    for i, weights in enumerate(model.layers):
        layer = getattr(llama.decoder, f"layers_{i}")
        # Its Llama has the scale in the initial queries, and its others as a factor.
        layer.self_attention.query_pre_attn_scalar = config.head_dim**-0.5
        for name, (part, matrix) in NAMES.items():
            put(getattr(getattr(layer, part), matrix).kernel, weights[name])
    return llama


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


def mean_entropy(teacher: nnx.Module, inputs: dict[str, jax.Array]) -> float:
    """Returns the teacher's mean entropy, in nats."""
    rows = []
    for logits_LV in teacher(**inputs):
        log_q_LV = jax.nn.log_softmax(logits_LV)
        rows.append(-jnp.sum(jnp.exp(log_q_LV) * log_q_LV, axis=-1).mean())
    return float(sum(rows)) / len(rows)


class Trainer(MaxTextDistillationTrainer):
    """The trainer, which keeps the metrics of its last step."""

    metrics: dict[str, tuple[jax.Array, jax.Array]]

    def _post_process_train_step(self, aux: Any) -> None:
        self.metrics = aux


def taught_step(sizes: Sizes, mesh: Any) -> Callable[[], float]:
    """Returns a step of the distillation trainer, which gives the blended loss."""
    configs = [
        config_of(sizes, n) for n in (sizes.student_layers, sizes.teacher_layers)
    ]
    student = load(configs[0], mesh, make_student(sizes))
    teacher = load(configs[1], mesh, make_teacher(sizes))
    student.train()
    teacher.eval()
    tokens = make_tokens(sizes)
    inputs, positions, ones = tokens[:, :-1], *_positions_and_ones(sizes)
    batch = distillation_utils.MaxTextTrainingInput(
        input_tokens=inputs,
        input_mask=ones.astype(bool),
        positions=positions,
        decoder_segment_ids=ones,
        targets=tokens[:, 1:],
        targets_position=positions,
        targets_segmentation=ones,
    )
    strategy = distillation_utils.CombinedDistillationStrategy(
        student_forward_fn=create_forward_fn(configs[0]),
        teacher_forward_fn=create_forward_fn(configs[1]),
        pad_id=-1,
        temperature=1.0,
        alpha=sizes.kd_weight,
        vocab_size=sizes.vocab,
    )
    trainer = Trainer(
        model=ModelBundle(teacher, student),
        strategy=strategy,
        optimizer=make_optimizer(sizes),
        training_config=TrainingConfig(eval_every_n_steps=10**9),
        student_config=configs[0],
        teacher_config=configs[1],
    )
    trainer.checkpoint_manager = CheckpointManager()  # Of no directory: saves nothing.
    # So that `train` may be called again with the next examples.
    trainer.is_managed_externally = True
    trainer._has_aux = True
    trainer = trainer.with_gen_model_input_fn(
        lambda batch: {
            "input_tokens": batch.input_tokens,
            "positions": batch.positions,
            "attention_mask": batch.input_mask,
            "decoder_segment_ids": batch.decoder_segment_ids,
            "targets": batch.targets,
            "targets_position": batch.targets_position,
            "targets_segmentation": batch.targets_segmentation,
            "cache": None,
        }
    )
    # The trainer's soft loss is KL, which is cross-entropy less this.
    entropy = mean_entropy(
        teacher,
        {
            "decoder_input_tokens": inputs,
            "decoder_positions": positions,
            "decoder_segment_ids": ones,
            "enable_dropout": False,
        },
    )

    def step() -> float:
        trainer.train([batch])
        jax.block_until_ready(nnx.state(trainer.model.student_model))
        soft, hard = (
            float(total / count)
            for total, count in (
                trainer.metrics[distillation_utils.METRIC_SOFT_LOSS],
                trainer.metrics[distillation_utils.METRIC_HARD_LOSS],
            )
        )
        return (1.0 - sizes.kd_weight) * hard + sizes.kd_weight * (soft + entropy)

    return step


def plain_step(sizes: Sizes, mesh: Any) -> Callable[[], float]:
    """Returns a step of pretraining, which gives the cross-entropy."""
    config = config_of(sizes, sizes.student_layers)
    student = load(config, mesh, make_student(sizes))
    optimizer = nnx.Optimizer(student, make_optimizer(sizes), wrt=nnx.Param)
    graph, state = nnx.split(TrainStateNNX(student, optimizer))
    run = jax.jit(
        functools.partial(train_step, graph, config, None, None), donate_argnums=0
    )
    tokens = make_tokens(sizes)
    positions, ones = _positions_and_ones(sizes)
    batch = {
        "inputs": tokens[:, :-1],
        "inputs_position": positions,
        "inputs_segmentation": ones,
        "targets": tokens[:, 1:],
        "targets_position": positions,
        "targets_segmentation": ones,
    }

    def step() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(run(state, dict(batch)))
        return float(metrics["scalar"]["learning/loss"])

    return step


def _positions_and_ones(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    shape = (sizes.batch, sizes.length)
    positions = np.broadcast_to(np.arange(sizes.length, dtype=np.int32), shape)
    return positions, np.ones(shape, np.int32)


def make_step(sizes: Sizes) -> Callable[[], float]:
    """Returns a step that goes on from the one before, and gives the loss."""
    config = config_of(sizes, sizes.student_layers)
    devices = maxtext_utils.create_device_mesh(config)
    mesh = jax.sharding.Mesh(devices, config.mesh_axes)
    make = plain_step if sizes.kd_weight is None else taught_step

    def inside(function: Callable[..., Any], *args: Any) -> Any:
        with jax.set_mesh(mesh), logical_axis_rules(config.logical_axis_rules):
            return function(*args)

    step = inside(make, sizes, mesh)
    return lambda: inside(step)


if __name__ == "__main__":
    version = importlib.metadata.version("maxtext")
    serve(make_step, f"maxtext {version}, jax {jax.__version__}")
