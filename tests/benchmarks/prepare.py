"""Prints how fast the embedded corpus is prepared, in tokens a second.

The last line is the text of its training split as SeqIO alone tokenizes and packs it;
nothing is written.

Run from the root of the repository: python tests/benchmarks/prepare.py
"""

import itertools
import os
import pathlib
import sys
import tempfile
import time

from salt_jax.data.preparing.prepare import Preparation, prepare

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parents[2]))  # For `tests`.

SEQ_LEN = 512
BATCH_SIZE = 64
CORPUS = "embedded:minipile"
VOCABULARY = "embedded:tokenizer/spm_4k.model"


def measure(num_processes: int, num_threads: int) -> tuple[float, float]:
    """Returns tokens a second, and a second of a processor, over all splits."""
    with tempfile.TemporaryDirectory() as output:
        preparation = Preparation(
            corpus=CORPUS,
            vocabulary=VOCABULARY,
            output=output,
            seq_len=SEQ_LEN,
            num_processes=num_processes,
            num_threads=num_threads,
        )
        begin, begin_busy = time.perf_counter(), time.process_time()
        splits = prepare(preparation, progress=lambda line: None)
        seconds = time.perf_counter() - begin
        busy_seconds = time.process_time() - begin_busy
    num_tokens = sum(data.manifest.num_tokens for data in splits.values())
    return num_tokens / seconds, num_tokens / busy_seconds


def measure_seqio() -> float:
    """Returns tokens a second of plain SeqIO with the same text and vocabulary."""
    # Not above: worker processes import this file.
    from tests import plain_seqio

    with tempfile.TemporaryDirectory() as folder:
        batches = plain_seqio.batches(
            folder, VOCABULARY, batch_size=BATCH_SIZE, seq_len=SEQ_LEN
        )
        begin, num_tokens = time.perf_counter(), 0
        for batch in itertools.islice(batches, 5_000_000 // (BATCH_SIZE * SEQ_LEN)):
            num_tokens += int((batch["decoder_segment_ids"] > 0).sum())
        return num_tokens / (time.perf_counter() - begin)


def main() -> None:
    """Prints one line for each way."""
    alone, _ = measure(1, 1)
    together, per_processor = measure(1, 2)
    processes, _ = measure(2, 1)
    print(f"prepare, 1 thread    {alone:12,.0f} tokens/s")
    print(
        f"prepare, 2 threads   {together:12,.0f} tokens/s (aim: 2,000,000), "
        f"{together / alone:.2f} of 1 thread"
    )
    print(
        f"  of a busy processor{per_processor:12,.0f} tokens/s, {os.cpu_count()} here"
    )
    print(f"prepare, 2 processes {processes:12,.0f} tokens/s, their start included")
    print(f"plain seqio          {measure_seqio():12,.0f} tokens/s")


if __name__ == "__main__":
    main()
