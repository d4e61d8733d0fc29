"""Mutated files of every kind that salt_jax writes: each reader reads or refuses them.

A reader may raise ValueError and OSError with the name of the file, and nothing else.
Half of the inputs of a JSON file are JSON with a true checksum and other values.
"""

import argparse
import collections
import os
import pathlib
import random
import resource
import sys
import tempfile
import time

from tests.soak import damage
from tests.soak.owned_files import JSON, PLAIN_JSON, Owned, owned_files

_MOST_SECONDS = 20.0  # Of one input.
_MOST_GROWTH = 200_000  # KiB, of the process over all inputs of a reader.


def fuzz(owned: Owned, count: int, seed: int) -> collections.Counter:
    """Gives a reader `count` mutated files; returns what came of it, by outcome."""
    rng = random.Random(f"{seed} {owned.name}")
    count = max(4, round(count * owned.share))
    whole = owned.path.read_bytes()
    owned.read()
    outcomes: collections.Counter = collections.Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for _ in range(count):
            damage.put(owned.path, _mutated(rng, owned, whole))
            began = time.monotonic()
            outcomes[outcome(owned)] += 1
            if time.monotonic() - began > _MOST_SECONDS:
                outcomes["slow"] += 1
    finally:
        damage.put(owned.path, whole)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if after - before > _MOST_GROWTH:
        outcomes[f"grew by {(after - before) // 1024} MiB"] += 1
    return outcomes


def outcome(owned: Owned) -> str:
    """Returns "read", "refused", "unnamed", or the error that was not declared."""
    try:
        owned.read()
    except (ValueError, OSError) as error:
        # A file that is whole, and does not fit its folder, is refused by the folder.
        is_named = any(str(x) in str(error) for x in (owned.path, owned.path.parent))
        return "refused" if is_named else f"unnamed: {error}"[:200]
    except Exception as error:
        return f"undeclared {type(error).__name__}: {error}"[:200]
    return "read"


def _mutated(rng: random.Random, owned: Owned, whole: bytes) -> bytes | str:
    if owned.kind in (JSON, PLAIN_JSON) and rng.random() < 0.5:
        try:
            return damage.retype(rng, whole)
        except ValueError:  # A header within a binary file.
            pass
    return rng.choice(damage.BYTES)(rng, whole)


def main() -> int:
    """Prints a line for each reader; returns 1 if any did what it does not declare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    # The suite's number of devices; read when JAX starts.
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    is_bad = False
    with tempfile.TemporaryDirectory() as folder:
        for owned in owned_files(pathlib.Path(folder)):
            if options.only not in owned.name:
                continue
            began = time.monotonic()
            found = fuzz(owned, options.count, options.seed)
            seconds = time.monotonic() - began
            read, refused = found.pop("read", 0), found.pop("refused", 0)
            print(f"{owned.name:32} {refused:7} refused {read:7} read {seconds:7.1f} s")
            for what, times in found.most_common(10):
                print(f"    {times} x {what}")
            is_bad = is_bad or bool(found)
            sys.stdout.flush()
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
