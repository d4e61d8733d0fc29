"""What every system measured is given, and how it is told to take steps.

A worker is a script that is started with a `Sizes` as JSON. All workers make the same
parameters and the same batch from them. Needs only numpy: each system has an
environment of its own.

Dimensions: B batch, L length, D embed, H heads, G key-value heads, K head_dim, F mlp,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The models, the batch and the blend; decoders are Llama's, embeddings tied."""

    vocab: int
    student_layers: int = 4
    teacher_layers: int = 2
    embed: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 1024
    batch: int
    length: int
    chunk_tokens: int = 128  # Of our loss; the others make all logits at once.
    kd_weight: float | None = 0.667  # None: a plain step, without a teacher.
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    # Tunix's Llama turns by this whatever its configuration says.
    rope_theta: float = 1e6
    norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class Model:
    """The parameters of a decoder whose norm scales are all one."""

    embedding_VD: np.ndarray
    layers: list[Arrays]  # query_DHK, key_DGK, value_DGK, out_HKD, gate_DF, ...


def make_model(sizes: Sizes, num_layers: int, seed: int) -> Model:
    """Returns random parameters of variance 1 / fan-in."""
    draw = np.random.default_rng(seed)
    D, H, G, K, F = (
        sizes.embed,
        sizes.heads,
        sizes.kv_heads,
        sizes.head_dim,
        sizes.mlp,
    )

    def weight(fan_in: int, *shape: int) -> np.ndarray:
        return draw.standard_normal(shape, np.float32) / np.float32(fan_in**0.5)

    def layer() -> Arrays:
        return {
            "query_DHK": weight(D, D, H, K),
            "key_DGK": weight(D, D, G, K),
            "value_DGK": weight(D, D, G, K),
            "out_HKD": weight(H * K, H, K, D),
            "gate_DF": weight(D, D, F),
            "up_DF": weight(D, D, F),
            "down_FD": weight(F, F, D),
        }

    return Model(weight(D, sizes.vocab, D), [layer() for _ in range(num_layers)])


def make_student(sizes: Sizes) -> Model:
    """Returns what every student starts from."""
    return make_model(sizes, sizes.student_layers, seed=1)


def make_teacher(sizes: Sizes) -> Model:
    """Returns what every teacher is."""
    return make_model(sizes, sizes.teacher_layers, seed=2)


def make_tokens(sizes: Sizes) -> np.ndarray:
    """Returns the batch, one token longer than what a model reads."""
    draw = np.random.default_rng(0)
    shape = (sizes.batch, sizes.length + 1)
    return draw.integers(0, sizes.vocab, shape, np.int32)


def num_threads() -> int:
    """Returns how many processors there are for this process."""
    return len(os.sched_getaffinity(0))


def serve(make_step: Callable[[Sizes], Callable[[], float]], versions: str) -> None:
    """Takes a step for each line of standard input, until there are no more.

    Answers each with a line of JSON: the seconds it took, and the loss before it. The
    first line says what the versions are, the last the peak of memory.
    """
    # Libraries print as they like: what is said on standard output is said for us.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    imported_mib = _peak_mib()
    step = make_step(Sizes(**json.loads(sys.argv[1])))
    answer(versions=versions, imported_mib=imported_mib)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = step()
        answer(seconds=time.perf_counter() - begin, loss=loss)
    answer(peak_mib=_peak_mib())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
