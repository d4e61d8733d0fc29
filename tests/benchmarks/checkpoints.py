"""What saving costs a run, and what checksums cost a save and a restore.

    python tests/benchmarks/checkpoints.py

A state of parameters and two moments, 300 MB by default, is saved and restored with and
without checksums, on the file system of --folder. Files are dropped from the page cache
before each restore. The share of step time is the time for which a step waits, at the
interval of --save_every steps of --step_seconds.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from salt_jax.storage import checkpoint, checksums
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.retention import Retention


def make_state(megabytes: int) -> Any:
    """Returns a state of stacked layers: parameters and two moments."""
    layers = max(1, megabytes * 10**6 // (3 * 4 * 2 * 512 * 2048))
    keys = iter(jax.random.split(jax.random.key(0), 6))
    draw = lambda: jax.random.normal(next(keys), (layers, 512, 2048))
    tree = lambda: {"layers": {"up": draw(), "gate": draw()}}
    return {
        "step": jnp.int32(1),
        "params": tree(),
        "opt_state": {"mu": tree(), "nu": tree()},
    }


def seconds(function: Callable[[], Any]) -> float:
    """Returns the time that a call takes [s]."""
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


def drop_from_cache(folder: pathlib.Path) -> None:
    """Makes the next read of the files come from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def without_checksums(function: Callable[[], Any], state: Any) -> float:
    """Returns the time of a call that computes no checksums [s]."""
    ready = checksums.checksums(state)
    modules = (checkpoint, checksums)
    real = [module.checksums for module in modules]
    for module in modules:
        module.checksums = lambda tree: {
            name: ready[name] for name in checksums.named_arrays(tree)
        }
    try:
        return seconds(function)
    finally:
        for module, was in zip(modules, real, strict=True):
            module.checksums = was


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--save_every", type=int, default=1000)
    parser.add_argument("--step_seconds", type=float, default=0.5)
    given = parser.parse_args()
    state = make_state(given.megabytes)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state
    )
    waits, plain_waits, restores, plain_restores, sums = [], [], [], [], []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        with Checkpointer(folder, Retention(every=1, max_to_keep=1)) as saved:
            for i in range(1, 2 * given.repeats + 1):
                save = lambda i=i: saved.save(i, state, {})
                if i % 2:
                    waits.append(seconds(save))
                else:
                    plain_waits.append(without_checksums(save, state))
                saved.wait()
        reader = SavedCheckpoints(folder)
        restore = lambda: reader.restore_latest(like)
        for _ in range(given.repeats):
            drop_from_cache(pathlib.Path(folder))
            restores.append(seconds(restore))
            drop_from_cache(pathlib.Path(folder))
            plain_restores.append(without_checksums(restore, state))
            sums.append(seconds(lambda: checksums.checksums(state)))
    wait, plain, restored, summed = map(
        statistics.median, (waits, plain_waits, restores, sums)
    )
    share = wait / (given.save_every * given.step_seconds)
    print(f"state                                  {size / 1e6:8.0f} MB")
    print(f"restore, checksums compared            {restored:8.3f} s")
    print(f"  checksums / restore                  {summed / restored:8.1%}")
    plain_restored = statistics.median(plain_restores)
    print(f"  restore / restore without            {restored / plain_restored:8.3f}")
    print(f"step waits for a save                  {wait:8.3f} s")
    print(f"  checksums / wait                     {summed / wait:8.1%}")
    print(f"  wait / wait without checksums        {wait / plain:8.3f}")
    interval = f"{given.save_every} steps of {given.step_seconds:g} s"
    print(f"saving / step time, every {interval:13}{share:8.3%}")


if __name__ == "__main__":
    main()
