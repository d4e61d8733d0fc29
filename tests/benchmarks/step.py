"""Prints what a step of each stage costs beside a plain one, and what scoring costs.

Also how near each comes to a bare product of matrices, and the peak of memory.

Run from the root of the repository: python tests/benchmarks/step.py [--rounds=30]

Sizes are those of the demo, parameters and text are random, and there is one device.
Everything is measured in turn, round by round, so that whatever else the machine does
falls on all of it; a ratio is the median of the ratios of the rounds.
"""

import argparse
import functools
import resource

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax import gin_config
from salt_jax.batch import Batch
from salt_jax.config import Experiment, Scoring
from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.reading.rows import causal_batch
from salt_jax.data.scoring.score_columns import score_columns
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.evaluation.reader import Reader
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.flops import forward_flops, step_flops
from salt_jax.model.transformer import Params, Transformer, init_params
from salt_jax.training.step_times import Steppers, Work, measure

FILES = "gin/tiny_salt_ds.gin", "gin/tiny_baseline.gin", "gin/tiny_score.gin"
MATMUL_SIZE = 1024


class RandomText:
    """Stands for a prepared dataset, of rows that are one document each."""

    def __init__(self, vocab_size: int, shape: tuple[int, int]):
        draw = np.random.default_rng(0)
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        self._fields = (
            draw.integers(3, vocab_size, shape, np.int32),
            np.ones(shape, np.int32),
            positions,
            np.zeros(shape, np.int16),
        )

    def read(self, ids: np.ndarray) -> Sequences:
        """Returns the rows `ids`."""
        return Sequences(*(field[ids] for field in self._fields))


def batches_of(
    text: RandomText, num_rows: int, batch_size: int, partitioning: Partitioning
) -> list[Batch]:
    """Returns the rows of `text` on the device."""
    sharding = partitioning.sharding("batch", "length")
    return [
        jax.device_put(causal_batch(text.read(ids)), sharding)
        for ids in np.arange(num_rows).reshape(-1, batch_size)
    ]


def random_params(model: Transformer, dtype: str = "float32") -> Params:
    """Returns fresh parameters in `dtype`."""
    params = model.partitioning.materialize(
        lambda key: init_params(model, key), jax.random.key(1)
    )
    return jax.tree.map(lambda x: x.astype(dtype), params)


def one_step(experiment: Experiment, index: int) -> Work:
    """Returns one update of a stage, each call going on from the one before."""
    steppers = Steppers(experiment, jax.devices()[:1])
    return functools.partial(steppers.compile(experiment.stages[index]), 1)


def forward_passes(scoring: Scoring, num_batches: int) -> dict[str, Work]:
    """Returns reading batches that lie on the device, and scoring them from the host.

    Both read the same rows. Scoring is what `score` does, but for its files.
    """
    partitioning = Partitioning(mesh=scoring.mesh.build(jax.devices()[:1]))
    model = Transformer(scoring.scorer, partitioning)
    read = token_reader(model, scoring.chunk_tokens)
    params = random_params(model, scoring.scorer_dtype)
    size = scoring.batch_size
    rows = num_batches * size
    text = RandomText(scoring.scorer.vocab_size, (rows, scoring.seq_len))
    batches = batches_of(text, rows, size, partitioning)
    ordered = Reader(
        read=token_reader(model, scoring.chunk_tokens, with_entropy=True),
        partitioning=partitioning,
        batch_size=size,
    )

    def evaluate() -> None:
        jax.block_until_ready([read(params, batch) for batch in batches])

    def score() -> None:
        for tokens in ordered(params, text, np.arange(rows)):
            score_columns(
                tokens.sequences,
                ce_NL=tokens.ce_NL,
                rank_NL=tokens.rank_NL,
                entropy_NL=tokens.entropy_NL,
                ks=scoring.ks,
            )

    return {"evaluate only": evaluate, "score": score}


def matmul() -> Work:
    """Returns a product of two square matrices."""
    x = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(x, x))


def print_rates(
    seconds: dict[str, np.ndarray], costs: dict[str, tuple[int, int]]
) -> None:
    """Prints the rates of works that take so many tokens, of so many FLOPs each."""
    peak = 2 * MATMUL_SIZE**3 / np.median(seconds["matmul"]) / 1e9
    print(f"{'':<18}{'ms':>8}{'tokens/s':>10}{'GFLOP/s':>9}{'of matmul':>11}")
    for name, (tokens, flops) in costs.items():
        median = np.median(seconds[name])
        rate = tokens * flops / median / 1e9
        print(
            f"{name:<18}{1e3 * median:8.0f}{tokens / median:10,.0f}{rate:9.0f}"
            f"{rate / peak:11.0%}"
        )
    print(f"a matmul of {MATMUL_SIZE:,} cubed: {peak:.0f} GFLOP/s")


def print_ratios(seconds: dict[str, np.ndarray], floor: float) -> None:
    """Prints the ratios beside what they should be."""

    def ratio(name: str, other: str) -> float:
        return float(np.median(seconds[name] / seconds[other]))

    one = ratio("stage-one step", "plain step")
    two = ratio("stage-two step", "plain step")
    score = ratio("evaluate only", "score")
    print(
        f"stage-one / plain step {one:.3f}; by FLOPs at least {floor:.3f}, and "
        f"{one / floor - 1:.1%} above it (aim: 10%)"
    )
    print(f"stage-two / plain step {two:.3f} (aim: 0.98 to 1.02)")
    print(f"score / evaluate only  {score:.3f} in tokens/s (aim: 0.9)")


def peak_mib() -> float:
    """Returns the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the rate of each work, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--score-batches", type=int, default=3)
    flags = parser.parse_args()
    salt, baseline, scoring = (gin_config.load([file]) for file in FILES)
    steps = {
        "plain step": (baseline, 0),
        "stage-one step": (salt, 0),
        "stage-two step": (salt, 1),
    }
    works = {"matmul": matmul()} | {
        name: one_step(experiment, index) for name, (experiment, index) in steps.items()
    }
    works |= forward_passes(scoring, flags.score_batches)
    seconds = measure(list(works.values()), flags.rounds)

    teacher = salt.stages[0].distillation.teacher
    plain = step_flops(salt.model, None, salt.seq_len)
    taught = step_flops(salt.model, teacher, salt.seq_len)
    read = forward_flops(scoring.scorer, scoring.seq_len)
    tokens = salt.batch_size * salt.seq_len
    tokens_read = flags.score_batches * scoring.batch_size * scoring.seq_len
    costs = {
        "plain step": (tokens, plain),
        "stage-one step": (tokens, taught),
        "stage-two step": (tokens, plain),
        "evaluate only": (tokens_read, read),
        "score": (tokens_read, read),
    }
    by_name = dict(zip(works, seconds, strict=True))
    print_rates(by_name, costs)
    print_ratios(by_name, floor=taught / plain)
    print(f"peak memory of all in one process {peak_mib():,.0f} MiB")


if __name__ == "__main__":
    main()
