"""A real run of both stages that takes seconds, for tests of what surrounds a step.

Also a script, for tests that kill it: python -m tests.runs WORKDIR FILES KILL_AT
[EXPERIMENT], the name of a function of this module.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import zstandard

from salt_jax.config import Distillation, Experiment, Stage, Validation
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.batch_sizes import Ramp
from salt_jax.data.reading.loader import open_batches
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.transformer import Transformer, abstract_params, init_params
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant, WarmupCosine
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import write_export
from salt_jax.train import train
from salt_jax.transition.leaving import WhenStudentReaches

VOCABULARY = "embedded:tokenizer/spm_4k.model"
SEQ_LEN = 16
N_KD, TOTAL_STEPS = 4, 7
MESH = MeshShape(model=2)

STUDENT = TransformerConfig(
    vocab_size=4096,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    dtype="float32",
    remat="none",
)
TEACHER = dataclasses.replace(STUDENT, num_layers=1, embed_dim=24)
PADDED_TEACHER = dataclasses.replace(TEACHER, vocab_size=4104)


def make_files(folder):
    """Writes a corpus, its prepared sequences and a teacher's export."""
    folder = pathlib.Path(folder)
    make_corpus(folder / "corpus")
    prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=VOCABULARY,
            output=str(folder / "data"),
            seq_len=SEQ_LEN,
        )
    )
    make_teacher(folder / "teacher")


def make_corpus(folder):
    """Writes the three splits of a corpus of two domains."""
    rng = np.random.default_rng(0)
    words = "the small model helps a large one first and then it leaves"
    for split, documents in ("train", 150), ("val", 12), ("test", 8):
        lines = [
            json.dumps(
                {
                    "text": " ".join(rng.choice(words.split(), rng.integers(5, 40)))
                    + ".",
                    "meta": {"pile_set_name": str(rng.choice(["Prose", "Verse"]))},
                }
            )
            for _ in range(documents)
        ]
        name = "train/00.jsonl.zst" if split == "train" else f"{split}.jsonl.zst"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zstandard.compress("\n".join(lines).encode()))


def make_teacher(path, model=TEACHER, vocabulary=VOCABULARY, *, seed=1, scale=1.0):
    """Exports a model with fresh parameters, times `scale`; at 0 it is uniform."""
    mesh = Partitioning(mesh=MESH.build())
    transformer = Transformer(model, mesh)
    params = mesh.materialize(
        lambda key: init_params(transformer, key), jax.random.key(seed)
    )
    write_export(
        path,
        jax.tree.map(lambda x: scale * x, params),
        model=model,
        vocabulary=Vocabulary.open(vocabulary).path,
        provenance={"step": 3},
        dtype="float32",
        seq_len=16,
    )


def make_padded_teacher(folder):
    """Exports the teacher of `folder` as padded/, with large logits for its padding."""
    like = abstract_params(Transformer(TEACHER, Partitioning(mesh=MESH.build())))
    params = jax.device_get(Export.open(f"{folder}/teacher").load(like))["params"]
    real_VD = params["embedding_VD"]
    added = PADDED_TEACHER.vocab_size - TEACHER.vocab_size
    rows = 3.0 * np.random.default_rng(0).standard_normal((added, real_VD.shape[1]))
    embedding_VD = np.concatenate([real_VD, rows.astype(np.float32)])
    write_export(
        pathlib.Path(folder) / "padded",
        {"params": params | {"embedding_VD": embedding_VD}},
        model=PADDED_TEACHER,
        vocabulary=Vocabulary.open(VOCABULARY).path,
        provenance={},
        dtype="float32",
        seq_len=16,
    )


def padded_teacher(folder):
    """The fields of a Distillation by `padded/`, its rows of padding masked."""
    return dict(
        teacher=PADDED_TEACHER,
        teacher_export=f"{folder}/padded",
        real_vocab_size=TEACHER.vocab_size,
    )


def experiment(folder, **changes):
    """Both stages on the files that `make_files` wrote in `folder`."""
    data = PreparedText(path=f"{folder}/data", vocabulary=VOCABULARY)
    distillation = Distillation(
        teacher=TEACHER,
        teacher_export=f"{folder}/teacher",
        kd_weight=Constant(value=0.667),
        teacher_dtype="float32",
    )
    stages = (
        Stage(name="distill", end_step=N_KD, data=data, distillation=distillation),
        Stage(name="standard", end_step=TOTAL_STEPS, data=data),
    )
    schedule = WarmupCosine(
        peak=1e-2, end=1e-3, warmup_steps=2, total_steps=TOTAL_STEPS
    )
    fields = dict(
        model=STUDENT,
        stages=stages,
        optimizer=AdamW(learning_rate=schedule, clip_norm=1.0),
        batch_size=8,
        seq_len=SEQ_LEN,
        mesh=MESH,
        loss_chunk_tokens=16,
        save_every=2,
        max_to_keep=10,
        log_every=1,
        validation=Validation(
            data=dataclasses.replace(data, split="val"), every=3, num_sequences=10
        ),
    )
    return Experiment(**fields | changes)


RAMP = Ramp(sizes=((0, 4), (3, 8), (5, 16)))  # Stage one ends at step 4.


def ramped(folder, **changes):
    """An experiment whose batches grow, those of the largest size in two parts."""
    fields = dict(batch_size=RAMP, num_microbatches=2, validation=None)
    return experiment(folder, **fields | changes)


LEFT_AT = 3  # Where the rule of `adaptive` ends stage one, before N_KD.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByLoss:
    """A weight that follows the held-out loss to its last bit."""

    peak: float
    reads = ("val_loss",)

    def __call__(self, step):
        return jnp.full(jnp.shape(step), self.peak, jnp.float32)

    def factor(self, history):
        return history[-1]["val_loss"] / 16 if history else 1.0


def adaptive(folder, *, measured_weight=True, leave=None, **changes):
    """An experiment whose first stage ends early, with a weight that is measured."""
    run = experiment(folder)
    first, second = run.stages
    distillation = first.distillation
    if measured_weight:
        distillation = dataclasses.replace(distillation, kd_weight=ByLoss(peak=0.9))
    first = dataclasses.replace(
        first,
        distillation=distillation,
        end_step=TOTAL_STEPS,
        leave=leave or WhenStudentReaches(patience=2, not_before=LEFT_AT),
    )
    validation = dataclasses.replace(run.validation, every=1)
    fields = dict(stages=(first, second), validation=validation)
    return experiment(folder, **fields | changes)


def open_then(index_of_doom, doom):
    """Opens batches that call `doom` when batch `index_of_doom` is asked for."""

    class Doomed:
        def __init__(self, loader, begin_index):
            self._batches = open_batches(loader, begin_index)
            self._index = begin_index

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._batches.close()

        @property
        def stall_seconds(self):
            return self._batches.stall_seconds

        def __next__(self):
            if self._index == index_of_doom:
                doom()
            self._index += 1
            return next(self._batches)

    return Doomed


class StoppedError(Exception):
    """Ends a run in its middle."""


def train_until(batch, run, workdir, **options):
    """Trains until batch `batch` is asked for: there the run is stopped."""

    def stop():
        raise StoppedError

    with contextlib.suppress(StoppedError):
        train(run, workdir, open_batches=open_then(batch, stop), **options)
        raise AssertionError(f"The run ended before batch {batch}.")


def assert_same(actual, expected):
    """Asserts that two trees of arrays are equal to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


if __name__ == "__main__":
    workdir, files, kill_at, *name = sys.argv[1:]
    train(
        globals()[name[0] if name else "experiment"](files),
        workdir,
        open_batches=open_then(
            int(kill_at), lambda: os.kill(os.getpid(), signal.SIGKILL)
        ),
    )
