"""Prints how fast the embedded corpus is prepared, in tokens a second.

Run from the root of the repository: python tests/benchmarks/prepare.py
"""

import os
import tempfile
import time

from salt_jax.data.prepare import Preparation, prepare

SEQ_LEN = 512


def measure(num_threads: int) -> tuple[float, float]:
    """Returns tokens a second, and a second of a processor, over all splits."""
    with tempfile.TemporaryDirectory() as output:
        preparation = Preparation(
            corpus="embedded:minipile",
            vocabulary="embedded:tokenizer/spm_4k.model",
            output=output,
            seq_len=SEQ_LEN,
            num_threads=num_threads,
        )
        begin, begin_busy = time.perf_counter(), time.process_time()
        splits = prepare(preparation, progress=lambda line: None)
        seconds = time.perf_counter() - begin
        busy_seconds = time.process_time() - begin_busy
    num_tokens = sum(data.manifest.num_tokens for data in splits.values())
    return num_tokens / seconds, num_tokens / busy_seconds


def main() -> None:
    """Prints one line for each number of threads."""
    alone, _ = measure(1)
    together, per_processor = measure(2)
    print(f"prepare, 1 thread    {alone:12,.0f} tokens/s")
    print(
        f"prepare, 2 threads   {together:12,.0f} tokens/s (aim: 1,000,000), "
        f"{together / alone:.2f} of 1 thread"
    )
    print(
        f"  of a busy processor{per_processor:12,.0f} tokens/s, {os.cpu_count()} here"
    )


if __name__ == "__main__":
    main()
