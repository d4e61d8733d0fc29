"""Damage to every kind of file: is it caught, with the name of the file, in one line?

A flipped bit, a cut end, and another file in its place: another shard, the same file of
another run or export, or a file of another kind.
"""

import argparse
import collections
import os
import pathlib
import random
import sys
import tempfile

from tests.soak import damage
from tests.soak.owned_files import PLAIN_JSON, Owned, owned_files

KINDS = ("flip", "truncate", "swap")
OUTCOMES = ("caught", "harmless", "silent", "traceback", "unnamed")


def corrupt(owned, count, seed, strangers):
    """Damages a file `count` times in each way; returns the outcomes by kind."""
    rng = random.Random(f"{seed} {owned.name}")
    whole, expected = owned.path.read_bytes(), owned.read()
    swaps = [path.read_bytes() for path in owned.others]
    found = {kind: collections.Counter() for kind in KINDS}
    try:
        for _ in range(count):
            for kind in KINDS:
                if kind == "swap":
                    others = swaps if swaps and rng.random() < 0.8 else strangers
                    damaged = rng.choice([x for x in others if x != whole])
                else:
                    damaged = getattr(damage, kind)(rng, whole)
                damage.put(owned.path, damaged)
                found[kind][outcome(owned, expected)] += 1
    finally:
        damage.put(owned.path, whole)
    return found


def outcome(owned: Owned, expected):
    """Returns one of `OUTCOMES`."""
    try:
        same = owned.read() == expected
    except (ValueError, OSError) as error:
        return "caught" if str(owned.path) in str(error) else "unnamed"
    except Exception:
        return "traceback"
    return "harmless" if same else "silent"


def main():
    """Prints a line for each kind of file; returns 1 if any damage was not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # The suite's number of devices; read when JAX starts.
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    total = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        files = owned_files(pathlib.Path(folder))
        files = [owned for owned in files if owned.kind != PLAIN_JSON]
        strangers = [owned.path.read_bytes() for owned in files]
        for owned in files:
            found = corrupt(owned, options.count, options.seed, strangers)
            summed = sum(found.values(), collections.Counter())
            print(f"{owned.name:32}", *(f"{summed[x]:7} {x}" for x in OUTCOMES))
            for kind in KINDS:
                for bad in OUTCOMES[2:]:
                    if found[kind][bad]:
                        print(f"    {found[kind][bad]} x {kind}: {bad}")
            total += summed
    print(f"{'all':32}", *(f"{total[x]:7} {x}" for x in OUTCOMES))
    return int(any(total[x] for x in OUTCOMES[2:]))


if __name__ == "__main__":
    sys.exit(main())
