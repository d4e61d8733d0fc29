"""Prints how fast batches are read and put on the mesh, and what opening costs.

Run from the root of the repository: python tests/benchmarks/loader.py
"""

import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from salt_jax.data.loader import Loader, open_batches
from salt_jax.data.pile import Pile
from salt_jax.data.prepare import Preparation, prepare
from salt_jax.data.score_columns import salt_scores
from salt_jax.partitioning import MeshShape, Partitioning

SEQ_LEN = 512
BATCH_SIZE = 64
NUM_BATCHES = 40
STEP_SECONDS = 0.05  # Of a pretended step, far shorter than a real one on a CPU.
VOCABULARY = "embedded:tokenizer/spm_4k.model"


def seconds(work: Callable[[], object]) -> float:
    """Returns how long `work` takes, the shortest of three times."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def open_loader(folder: str) -> Loader:
    """Prepares the embedded corpus in `folder` and opens its train split."""
    prepare(
        Preparation(
            corpus="embedded:minipile",
            vocabulary=VOCABULARY,
            output=folder,
            seq_len=SEQ_LEN,
        ),
        progress=lambda line: None,
    )
    return Loader(
        Pile(path=folder, vocabulary=VOCABULARY),
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        seed=0,
        partitioning=Partitioning(mesh=MeshShape().build()),
    )


def print_reading(loader: Loader) -> None:
    """Prints the rate of reading, and what opening far ahead costs."""
    tokens = NUM_BATCHES * BATCH_SIZE * SEQ_LEN
    on_host = seconds(lambda: [loader.host_batch(i) for i in range(NUM_BATCHES)])
    on_mesh = seconds(lambda: [loader.device_batch(i) for i in range(NUM_BATCHES)])
    near = seconds(lambda: loader.host_batch(0))
    far = seconds(lambda: loader.host_batch(10**9))
    print(f"batches on the host  {tokens / on_host:12,.0f} tokens/s")
    print(f"batches on the mesh  {tokens / on_mesh:12,.0f} tokens/s")
    print(f"batch 10^9 / batch 0 {far / near:12.2f} in time")


def print_stall(loader: Loader) -> None:
    """Prints the share of time that steps wait for batches."""
    begin = time.perf_counter()
    with open_batches(loader, 0) as batches:
        for _ in range(NUM_BATCHES):
            jax.block_until_ready(next(batches))
            time.sleep(STEP_SECONDS)
        share = batches.stall_seconds / (time.perf_counter() - begin)
    print(
        f"input stall          {share:12.2%} of steps of {STEP_SECONDS * 1000:.0f} ms "
        "(aim: below 2%)"
    )


def print_scores() -> None:
    """Prints the rate at which sequences are scored once the scorer has read them."""
    shape = (BATCH_SIZE, 1280)
    draw = np.random.default_rng(0)
    ce = draw.exponential(size=shape).astype(np.float32)
    rank = draw.integers(0, 50, shape)
    weights = np.ones(shape, np.float32)
    time_of_ks = seconds(lambda: salt_scores(ce, rank, weights, (1, 5, 10, 50)))
    print(f"scores at 4 ks       {ce.size / time_of_ks:12,.0f} tokens/s")


def main() -> None:
    """Prints every number."""
    with tempfile.TemporaryDirectory() as folder:
        loader = open_loader(folder)
        print_reading(loader)
        print_stall(loader)
    print_scores()


if __name__ == "__main__":
    main()
