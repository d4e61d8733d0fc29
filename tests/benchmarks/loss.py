"""Prints what the chunked loss costs beside the dense one, and gates beside none.

Run from the root of the repository: python tests/benchmarks/loss.py [--vocab=4096]

Both are differentiated by the student's hidden states and embedding. Memory is what
the compiled program holds: arguments, results and temporaries. (On a CPU the
compiler's own figure of its peak leaves the temporaries out.) Ratios are medians of
paired runs; with --cpu_time of CPU seconds, which other programs hardly change.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from salt_jax.loss.gates import WhereTeacherLeads, WhereTeacherRanks
from salt_jax.loss.losses import chunked_salt_loss, salt_loss
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.unembedding import Unembedding

Clock = Callable[[], float]
STUDENT_WIDTH, TEACHER_WIDTH = 256, 128
KD_WEIGHT = 0.667


def make_arguments(num_tokens: int, vocab: int, dtype: str) -> tuple:
    """Returns student, teacher, targets and weights of `num_tokens` in four rows."""
    keys = iter(jax.random.split(jax.random.key(0), 5))
    rows = (4, num_tokens // 4)

    def model(width):
        hidden_BLD = jax.random.normal(next(keys), (*rows, width), dtype)
        return Unembedding(
            hidden_BLD, 0.1 * jax.random.normal(next(keys), (vocab, width))
        )

    models = model(STUDENT_WIDTH), model(TEACHER_WIDTH)
    targets_BL = jax.random.randint(next(keys), rows, 0, vocab)
    return *models, targets_BL, jnp.ones(rows)


def dense(student, teacher, targets_BL, weights_BL, **blend):
    """Computes the loss by way of all logits."""
    return salt_loss(
        student.logits(), teacher.logits(), targets_BL, weights_BL, **blend
    )


def compile_gradient(loss: Callable, arguments: tuple) -> jax.stages.Compiled:
    """Returns the program that gives metrics, and the gradient by the student."""

    def total(*arguments):
        metrics = loss(*arguments, kd_weight=KD_WEIGHT)
        return metrics["loss"].total, metrics

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    return run.lower(*arguments).compile()


def mebibytes(program: jax.stages.Compiled) -> float:
    """Returns what `program` holds while it runs."""
    memory = program.memory_analysis()
    held = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return held / 2**20


def seconds(program: jax.stages.Compiled, arguments: tuple, clock: Clock) -> float:
    """Returns how long one run takes."""
    begin = clock()
    jax.block_until_ready(program(*arguments))
    return clock() - begin


def compare(
    programs: list[jax.stages.Compiled], arguments: tuple, repeats: int, clock: Clock
) -> list[tuple[float, float]]:
    """Returns for each program its median seconds, and of its ratios to the first."""
    for program in programs:
        seconds(program, arguments, clock)
    # Interleaved, so that whatever else the machine does falls on all of them.
    rounds = [[seconds(p, arguments, clock) for p in programs] for _ in range(repeats)]
    columns = list(zip(*rounds, strict=True))
    return [
        (
            statistics.median(column),
            statistics.median(a / b for a, b in zip(column, columns[0], strict=True)),
        )
        for column in columns
    ]


def print_table(
    losses: dict[str, Callable], arguments: tuple, repeats: int, clock: Clock
) -> None:
    """Prints a row for each loss; ratios are to the first."""
    programs = [compile_gradient(loss, arguments) for loss in losses.values()]
    held = [mebibytes(program) for program in programs]
    measured = compare(programs, arguments, repeats, clock)
    print(f"{'loss and gradient':<18}{'seconds':>9}{'ratio':>7}{'MiB':>9}{'ratio':>7}")
    for name, memory, (time_s, ratio) in zip(losses, held, measured, strict=True):
        print(
            f"{name:<18}{time_s:9.3f}{ratio:7.3f}{memory:9.0f}{memory / held[0]:7.3f}"
        )


def main() -> None:
    """Prints dense beside chunked losses, then gates and masked padding beside none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--chunks", type=int, nargs="+", default=[128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of the hidden states")
    parser.add_argument("--no_dense", action="store_true", help="only the second table")
    parser.add_argument("--cpu_time", action="store_true", help="of all threads")
    flags = parser.parse_args()
    clock = time.process_time if flags.cpu_time else time.perf_counter

    arguments = make_arguments(flags.tokens, flags.vocab, flags.dtype)
    partitioning = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    chunked = {
        f"chunks of {chunk:,}": functools.partial(
            chunked_salt_loss, partitioning=partitioning, chunk_tokens=chunk
        )
        for chunk in flags.chunks
    }
    print(f"{flags.tokens:,} tokens, vocabulary {flags.vocab:,}, {flags.dtype}")
    if not flags.no_dense:
        print_table({"dense": dense} | chunked, arguments, flags.repeats, clock)
    (name, loss), *_ = chunked.items()
    options = {
        name: {},
        "top 10 alone": {"gate": WhereTeacherRanks(k=10)},
        "where it leads": {"gate": WhereTeacherLeads()},
        "masked padding": {"real_vocab_size": flags.vocab - 100},
    }
    gated = {name: functools.partial(loss, **more) for name, more in options.items()}
    print_table(gated, arguments, flags.repeats, clock)


if __name__ == "__main__":
    main()
