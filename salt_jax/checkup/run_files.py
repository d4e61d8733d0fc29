"""What a real run reads: text, prepared, and a teacher with random parameters."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax

from salt_jax import gin_config
from salt_jax.checkup.sizes import VOCABULARY, sizes_of
from salt_jax.checkup.values import Line, Setting, measured
from salt_jax.data import embedded
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.storage.export_writing import write_export

GIN_FILE = "gin/tiny_salt_ds.gin"


def files(setting: Setting) -> Iterator[Line]:
    """Prepares the embedded text and writes the teacher; yields the time of both."""
    folder = setting.folder / "files"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "corpus/train").mkdir(parents=True)
    held_out = embedded.resolve("embedded:minipile/val.jsonl.zst")
    shutil.copy(held_out, folder / "corpus/val.jsonl.zst")
    parts = sorted(embedded.resolve("embedded:minipile/train").iterdir())
    for part in [held_out] if setting.small else parts:
        shutil.copy(part, folder / "corpus/train" / part.name)
    began = time.perf_counter()
    prepared = prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=VOCABULARY,
            output=str(folder / "data"),
            seq_len=sizes_of(setting).run_seq_len,
            splits=("train", "val"),
        )
    )["train"]
    seconds = time.perf_counter() - began
    tokens = len(prepared) * sizes_of(setting).run_seq_len
    yield measured("tokens prepared", tokens / 1e6, "million")
    yield measured("preparing, both splits", seconds, "s")
    yield from _teacher(setting)


def run_options(setting: Setting) -> list[str]:
    """Returns the options that name the run's experiment to every command."""
    return [
        f"--gin_file={GIN_FILE}",
        *(f"--gin.{binding}" for binding in run_bindings(setting)),
    ]


def run_bindings(setting: Setting) -> list[str]:
    """Returns what the run's experiment changes in `GIN_FILE`."""
    sizes, folder = sizes_of(setting), setting.folder / "files"
    rows = sizes.run_rows_per_device * setting.device.count
    end_helped, end = sizes.run_steps
    bindings = {
        "DATA": f"'{folder}/data'",
        "TEACHER": f"'{folder}/teacher'",
        "SELECTION": "None",
        "N_KD": end_helped,
        "TOTAL_STEPS": end,
        "WARMUP_STEPS": 8,
        "PEAK_LEARNING_RATE": 1e-3,
        "BATCH_SIZE": rows,
        "SEQ_LEN": sizes.run_seq_len,
        "config.Experiment.save_every": sizes.run_save_every,
        "config.Experiment.log_every": 4,
        "config.Validation.every": end,
        "config.Validation.num_sequences": rows,
    }
    layers = dict(zip(("llm_tiny", "slm_tiny"), sizes.run_layers, strict=True))
    for model, count in layers.items():
        bindings[f"{model}/model.TransformerConfig.num_layers"] = count
    for field, value in sizes.run_model.items():
        for scope in layers:
            bindings[f"{scope}/model.TransformerConfig.{field}"] = value
    if sizes.run_model.get("dtype") == "'bfloat16'":
        bindings["config.Distillation.teacher_dtype"] = "'bfloat16'"
        bindings["config.Experiment.loss_chunk_tokens"] = sizes.chunk_tokens
    return [f"{name}={value}" for name, value in bindings.items()]


def _teacher(setting: Setting) -> Iterator[Line]:
    experiment: Any = gin_config.load([GIN_FILE], run_bindings(setting))
    config = experiment.stages[0].distillation.teacher
    mesh = Partitioning(mesh=MeshShape().build(jax.local_devices()))
    model = Transformer(config, mesh)
    params = mesh.materialize(lambda key: init_params(model, key), jax.random.key(1))
    began = time.perf_counter()
    write_export(
        setting.folder / "files/teacher",
        params,
        model=config,
        vocabulary=Vocabulary.open(VOCABULARY).path,
        provenance={"random": True},
        dtype="bfloat16",
        seq_len=experiment.seq_len,
    )
    seconds = time.perf_counter() - began
    size = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    yield measured("parameters of the teacher", size, "million")
    yield measured("writing it", seconds, "s")
