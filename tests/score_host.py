"""One of several processes that score into one folder, which may be slow, or die.

A script: python -m tests.score_host FILES OUTPUT DELAY KILL_AT [PORT,COUNT,INDEX]. The
last is left out by a process that knows of no other. It sleeps DELAY seconds at each
batch of sequences that it reads, and dies of SIGKILL at the batch KILL_AT, from 0.
"""

import itertools
import os
import signal
import sys
import time

from salt_jax.config import Scoring
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.processes.job import join
from salt_jax.score import score
from tests import runs

COUNT, SHARD_SIZE, BATCH_SIZE = 70, 8, 4


def scoring(files, output):
    return Scoring(
        scorer=runs.TEACHER,
        scorer_export=f"{files}/teacher",
        data=PreparedText(path=f"{files}/data", vocabulary=runs.VOCABULARY),
        seq_len=runs.SEQ_LEN,
        output=str(output),
        ks=(10, 700),
        pool=COUNT,
        batch_size=BATCH_SIZE,
        sequences_per_shard=SHARD_SIZE,
        mesh=MeshShape(model=2),
        scorer_dtype="float32",
        chunk_tokens=8,
    )


def make_slow(delay, kill_at):
    """Makes this process slow at reading sequences, and lets it die at it."""
    read, numbers = PreparedDataset.read, itertools.count()

    def slow_read(dataset, ids):
        time.sleep(delay)
        if next(numbers) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(dataset, ids)

    PreparedDataset.read = slow_read


if __name__ == "__main__":
    files, output, delay, kill_at, *job = sys.argv[1:]
    if job:
        join(f"127.0.0.1:{job[0]}")
    make_slow(float(delay), int(kill_at))
    score(scoring(files, output))
