"""Prints how fast batches are made, what opening them costs, and who waits for whom.

The embedded corpus is read in each way, and once as SeqIO by itself would read it. Run
from the root of the repository: python tests/benchmarks/loader.py
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parents[2]))  # For `tests`.

import jax
import numpy as np

from salt_jax.data.prepared import readers
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.readers import ShardReader
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.loader import Loader, open_batches
from salt_jax.data.reading.objectives import CausalLM, Mixture, PrefixLM, SpanCorruption
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.scoring.score_columns import salt_scores
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from tests import plain_seqio
from tests.stand_in import SEQ_LEN as STAND_IN_LEN
from tests.stand_in import write_stand_in

BATCH_SIZE = 64
NUM_TOKENS = 2_000_000
NUM_STEPS = 40
STEP_SECONDS = 0.05  # Of a pretended step, far shorter than a real one on a CPU.
LATENCY_SECONDS = 0.03  # Of each read of a shard, as from another building.
NUM_THREADS = 2
NUM_SHARDS = 12_208  # Of 16,384 sequences: 200 million.
VOCABULARY = "embedded:tokenizer/spm_4k_ul2.model"
read_shard = ShardReader.read
UL2 = Mixture(
    denoisers=(
        CausalLM(),
        PrefixLM(),
        SpanCorruption(),
        SpanCorruption(rate=0.5, mean_length=32.0),
    ),
    weights=(6, 2, 1, 1),
)


def seconds(work: Callable[[], object]) -> float:
    """Returns how long `work` takes, the shortest of three times."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def open_loader(data: PreparedText, seq_len: int) -> Loader:
    """Opens `data` for one device."""
    mesh = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    return Loader(
        data, batch_size=BATCH_SIZE, seq_len=seq_len, seed=0, partitioning=mesh
    )


def prepared(folder: str, seq_len: int, **changes: int) -> PreparedText:
    """Prepares the embedded corpus."""
    output = f"{folder}/{seq_len}{''.join(changes)}"
    prepare(
        Preparation(
            corpus="embedded:minipile",
            vocabulary=VOCABULARY,
            output=output,
            seq_len=seq_len,
            **changes,
        ),
        progress=lambda line: None,
    )
    return PreparedText(path=output, vocabulary=VOCABULARY)


def tokens_per_second(make: Callable[[int], object], seq_len: int) -> float:
    """Returns how many tokens have the batches that `make` makes in a second."""
    count = BATCH_SIZE * seq_len
    indices = range(NUM_TOKENS // count)
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        return len(indices) * count / seconds(lambda: list(pool.map(make, indices)))


def print_rates(data: PreparedText, seq_len: int) -> float:
    """Prints how fast batches are made; returns it for plain text on the host."""
    for name, objective, aim in (("UL2", UL2, "1.5 M"), ("text", CausalLM(), "5 M")):
        loader = open_loader(dataclasses.replace(data, objective=objective), seq_len)
        rate = tokens_per_second(loader.host_batch, seq_len)
        print(f"{name:4s} of {seq_len:4d}, host {rate:14,.0f} tokens/s (aim: {aim})")
        on_mesh = tokens_per_second(loader.device_batch, seq_len)
        print(f"{name:4s} of {seq_len:4d}, mesh {on_mesh:14,.0f} tokens/s")
    return rate


def print_openings(name: str, data: PreparedText, seq_len: int) -> None:
    """Prints how long it takes to open data and to make one batch, wherever it is."""
    for index in (0, 10**6, 10**9):
        begin = time.perf_counter()
        loader = open_loader(data, seq_len)
        opened = time.perf_counter()
        loader.host_batch(index)
        end = time.perf_counter()
        print(
            f"{name}, open {opened - begin:.3f} s, and batch {index:<13,d} "
            f"{end - opened:.3f} s"
        )
        del loader  # Before the next one is there.


@dataclasses.dataclass(frozen=True)
class EveryOther:
    """A selection of half of a dataset."""

    def select(self, dataset: PreparedDataset) -> np.ndarray:
        """Returns the even ids."""
        return np.arange(0, len(dataset), 2)


def print_large(folder: str) -> None:
    """Prints the same for as many sequences as the Pile has, whole and selected."""
    data = write_stand_in(folder, NUM_SHARDS)
    print_openings("200 M sequences", data, STAND_IN_LEN)
    before = peak_bytes()
    selected = dataclasses.replace(data, selection=EveryOther())
    print_openings("100 M of them", selected, STAND_IN_LEN)
    print(
        f"100 M of them, peak memory more: {(peak_bytes() - before) / 2**20:,.0f} MiB"
    )


def slow_read(reader: ShardReader, places: Sequence[int]) -> list[bytes]:
    """Reads a shard as from another building."""
    time.sleep(LATENCY_SECONDS)
    return read_shard(reader, places)


def print_stall(name: str, data: PreparedText, seq_len: int) -> None:
    """Prints the share of time that steps wait for batches, made ahead or not."""
    loader = open_loader(data, seq_len)
    begin, stall = time.perf_counter(), 0.0
    for index in range(NUM_STEPS):
        asked = time.perf_counter()
        jax.block_until_ready(loader.device_batch(index))
        stall += time.perf_counter() - asked
        time.sleep(STEP_SECONDS)
    share = stall / (time.perf_counter() - begin)
    print(f"stall, {name}, none made ahead {share:8.2%} of the time")
    for read_ahead in (1, 4):
        with open_batches(loader, 0, read_ahead) as batches:
            next(batches)  # Compiling hides it in a run.
            begin, before = time.perf_counter(), batches.stall_seconds
            for _ in range(NUM_STEPS):
                jax.block_until_ready(next(batches))
                time.sleep(STEP_SECONDS)
            stall = batches.stall_seconds - before
        share = stall / (time.perf_counter() - begin)
        print(f"stall, {name}, {read_ahead:4d} made ahead {share:8.2%} of the time")


def seqio_tokens_per_second(folder: str, seq_len: int) -> float:
    """Returns the rate at which SeqIO by itself makes packed batches of the corpus."""
    batches = plain_seqio.batches(
        folder, VOCABULARY, batch_size=BATCH_SIZE, seq_len=seq_len
    )
    next(batches)
    count = NUM_TOKENS // 4 // (BATCH_SIZE * seq_len)
    time_of_batches = seconds(lambda: [next(batches) for _ in range(count)])
    return count * BATCH_SIZE * seq_len / time_of_batches


def peak_bytes() -> int:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
        rates = {}
        for seq_len in (512, 1280):
            data = prepared(folder, seq_len)
            rates[seq_len] = print_rates(data, seq_len)
        print(f"peak memory so far {peak_bytes() / 2**20:,.0f} MiB")
        print_openings("embedded corpus", data, 1280)
        print_stall("shards here", data, 1280)
        many = prepared(folder, 256, sequences_per_shard=64)
        with mock.patch.object(readers.ShardReader, "read", slow_read):
            print_stall(f"shards {LATENCY_SECONDS * 1000:.0f} ms away", many, 256)
        print_large(f"{folder}/large")
        plain = seqio_tokens_per_second(folder, 512)
        print(
            f"seqio.get_dataset, 512  {plain:14,.0f} tokens/s; ours from prepared data "
            f"is {rates[512] / plain:.0f} times as fast"
        )
    print_scores()


if __name__ == "__main__":
    main()
