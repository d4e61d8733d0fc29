"""Prints the memory that prepare and the loader take as the corpus grows.

Each figure is the peak of a process of its own, and what that process had before it
began. Little is held at a time, so that even the smallest corpus takes several runs.

Run from the root of the repository: python tests/benchmarks/memory.py
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from salt_jax.data import embedded
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.prepare_split import MemoryLimits

TIMES = (1, 4, 16)
SEQ_LEN = 512
VOCABULARY = "embedded:tokenizer/spm_4k.model"
MEMORY = MemoryLimits(run_tokens=1 << 18, bucket_tokens=1 << 18)


def write_corpus(folder: pathlib.Path, times: int) -> None:
    """Writes the embedded training text `times` over, each under other names."""
    (folder / "train").mkdir(parents=True)
    for file in pathlib.Path(embedded.resolve("embedded:minipile/train")).iterdir():
        for copy in range(times):
            shutil.copy(file, folder / "train" / f"{copy:02}-{file.name}")


def run_prepare(folder: str) -> None:
    """Prepares the corpus in `folder`, holding little in memory at a time."""
    preparation = Preparation(
        corpus=f"{folder}/corpus",
        vocabulary=VOCABULARY,
        output=f"{folder}/prepared",
        seq_len=SEQ_LEN,
        splits=("train",),
        sequences_per_shard=2_048,
        num_threads=2,
    )
    prepare(preparation, progress=lambda line: None, memory=MEMORY)


def run_loader(folder: str) -> None:
    """Opens what was prepared, and reads batches from all over it."""
    dataset = PreparedDataset.open(f"{folder}/prepared/train")
    draw = np.random.default_rng(0)
    for _ in range(200):
        dataset.read(draw.integers(len(dataset), size=64))


def peak_mib() -> float:
    """Returns the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(work: str, folder: str) -> tuple[float, float]:
    """Returns the peak of a new process before and after it does some work, in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, work, folder],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.split()
    return float(before), float(after)


def main() -> None:
    """Prints one line for each size of the corpus."""
    for times in TIMES:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(pathlib.Path(folder) / "corpus", times)
            figures = {work: measure(work, folder) for work in WORKS}
        for work, (before, after) in figures.items():
            print(
                f"{work:8} {times:2} x the corpus {after:8.1f} MiB at most, "
                f"{before:.1f} before"
            )


WORKS = {"prepare": run_prepare, "loader": run_loader}

if __name__ == "__main__":
    if len(sys.argv) == 3:
        at_first = peak_mib()
        WORKS[sys.argv[1]](sys.argv[2])
        print(at_first, peak_mib())
    else:
        main()
