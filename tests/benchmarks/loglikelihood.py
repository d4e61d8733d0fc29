"""Prints how fast few-shot questions are answered beside lm-eval's `hf` backend.

Run from the root of the repository:
python tests/benchmarks/loglikelihood.py [--export=DIR] [--limit=N] [--rounds=3]

Both read the same model in float32 on the CPU, a model of the demo's shape with random
parameters unless --export names another: `hf` reads what `export --format=hf` makes of
it. First all that both say of the embedded tasks is compared: likelihoods, whether they
are greedy, texts and metrics. Then the multiple-choice questions of these tasks are
answered in turn, round by round, and tokens are cut on both sides; a ratio is the
median of the ratios of the rounds.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import jax
import numpy as np
from etils import epath
from lm_eval.models.huggingface import HFLM

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.few_shot.harness import ask
from salt_jax.few_shot.language_model import SaltLM
from salt_jax.few_shot.tasks import SEED, load_tasks
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import write_export
from salt_jax.storage.loaded import LoadedModel

VOCABULARY = "embedded:tokenizer/spm_4k.model"
MAX_LENGTH = 256
NAMES = ("embedded", "hyperbaton_pairs")
BATCH_SIZES = (1, 8, 32)  # Of `hf`, of which the fastest is the one to beat.
DEMO = TransformerConfig(
    vocab_size=4096,
    num_layers=4,
    embed_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=512,
    dtype="float32",
    remat="none",
)


def make_export(folder: epath.Path) -> epath.Path:
    """Writes a model of the demo's shape with random parameters."""
    partitioning = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    model = Transformer(DEMO, partitioning)
    params = partitioning.materialize(
        lambda key: init_params(model, key), jax.random.key(0)
    )
    write_export(
        folder,
        params,
        model=DEMO,
        vocabulary=Vocabulary.open(VOCABULARY).path,
        provenance={"step": 0},
        dtype="float32",
        seq_len=MAX_LENGTH,
    )
    return folder


def compare(ours: dict, theirs: dict) -> None:
    """Prints, task by task, how far two sets of lm-eval's results are apart."""
    print(f"{'task':22} {'answers':>8} {'worst':>9} {'greedy':>7} {'metrics':>8}")
    for task, samples in ours["samples"].items():
        pairs = list(zip(samples, theirs["samples"][task], strict=True))
        said = [
            (x, y)
            for a, b in pairs
            for x, y in zip(a["filtered_resps"], b["filtered_resps"], strict=True)
        ]
        worst, greedy = 0.0, 0
        for x, y in said:
            if isinstance(x, str):
                greedy += x != y
            else:
                worst = max(worst, abs(x[0] - y[0]) / abs(y[0]))
                greedy += x[1] != y[1]
        metrics = ours["results"][task], theirs["results"][task]
        other = sum(
            not np.isclose(value, metrics[1][name], rtol=1e-4)
            for name, value in metrics[0].items()
            if isinstance(value, float)
        )
        print(f"{task:22} {len(said):8,} {worst:9.1e} {greedy:7} {other:8}")
    print(
        "worst: relative, of log-likelihoods; greedy, metrics: how many differ, texts "
        "counted with greedy."
    )


def seconds(lm, questions: list) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        lm.loglikelihood(questions)
    return time.perf_counter() - began


def measure(lm: SaltLM, peers: dict[int, HFLM], questions: list, rounds: int) -> None:
    """Prints the speeds and their ratio, with programs compiled before."""
    seconds(lm, questions)
    ours = [seconds(lm, questions)]
    theirs = {size: [seconds(peer, questions)] for size, peer in peers.items()}
    best = min(theirs, key=lambda size: theirs[size][0])
    for _ in range(rounds - 1):
        ours.append(seconds(lm, questions))
        theirs[best].append(seconds(peers[best], questions))
    count = len(questions)
    for size, times in theirs.items():
        rate = count / statistics.median(times)
        print(f"hf, batch_size={size:2}: {rate:8.1f} sequences/s")
    print(f"salt_jax:          {count / statistics.median(ours):8.1f} sequences/s")
    ratio = statistics.median(y / x for x, y in zip(ours, theirs[best], strict=True))
    print(f"salt_jax is {ratio:.2f} x the fastest hf (batch_size={best}).")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--export")
    parser.add_argument("--limit", type=int, default=20, help="0: all")
    parser.add_argument("--rounds", type=int, default=3, help="0: only compare")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.export or make_export(epath.Path(folder) / "export")
        other = epath.Path(folder) / "hf"
        export_to_hugging_face(Export.open(path), other, dtype="float32")
        loaded = LoadedModel.open(
            path, max_length=MAX_LENGTH, dtype="float32", devices=jax.devices()[:1]
        )
        lm = SaltLM(loaded, batch_size=8)
        peers = {
            size: HFLM(
                pretrained=str(other),
                device="cpu",
                dtype="float32",
                batch_size=size,
                max_length=MAX_LENGTH,
                add_bos_token=True,
            )
            for size in BATCH_SIZES
        }
        tasks = load_tasks(NAMES)
        limit = options.limit or None
        compare(ask(lm, tasks, limit=limit), ask(peers[8], tasks, limit=limit))
        if not options.rounds:
            return
        questions = []
        for task in tasks.tasks.values():
            task.set_fewshot_seed(SEED)
            with contextlib.redirect_stderr(io.StringIO()):
                task.build_all_requests(limit=limit)
            if task.OUTPUT_TYPE == "multiple_choice":
                questions += task.instances
        measure(lm, peers, questions, options.rounds)


if __name__ == "__main__":
    main()
