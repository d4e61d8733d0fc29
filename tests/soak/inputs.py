"""Mutated files of others: every reader reads them, or refuses them as it declares.

A reader of foreign files may raise ValueError and FileNotFoundError with the name of
the file, and nothing else. All of them run in a process of their own, with bounded
memory, that is ended if one input takes longer than a minute.
"""

import argparse
import collections
import faulthandler
import multiprocessing
import os
import pathlib
import random
import re
import resource
import sys
import tempfile
import time

from tests.soak import damage
from tests.soak.foreign_files import READERS, foreign_file

_MOST_SECONDS = 60  # Of one input.
_MOST_GROWTH = 300_000  # KiB, over the second half of the inputs of a reader.
_ROOM = 24 << 30  # Bytes of addresses, of which TensorFlow takes most.


def fuzz(name: str, folder: pathlib.Path, count: int, seed: int) -> collections.Counter:
    """Gives a reader `count` mutated files; returns what came of it, by outcome."""
    foreign = foreign_file(name, folder)
    rng = random.Random(f"{seed} {name}")
    whole = foreign.path.read_bytes()
    foreign.read()
    outcomes: collections.Counter = collections.Counter()
    before = 0
    for number in range(count):
        if number == count // 2:  # What is imported and cached by now has grown.
            before = _peak()
        damage.put(foreign.path, _mutated(rng, foreign, whole))
        faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)
        outcomes[_outcome(foreign)] += 1
        faulthandler.cancel_dump_traceback_later()
    damage.put(foreign.path, whole)
    if _peak() - before > _MOST_GROWTH:
        outcomes[f"grew by {(_peak() - before) // 1024} MiB"] += 1
    return outcomes


def _outcome(foreign) -> str:
    try:
        foreign.read()
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        said = str(error)
        is_named = str(foreign.path.parent) in said or re.search(foreign.or_says, said)
        return "refused" if is_named else f"unnamed: {error}"[:160]
    except BaseException as error:
        return f"undeclared {type(error).__name__}: {error}"[:160]
    return "read"


def _mutated(rng: random.Random, foreign, whole: bytes) -> bytes | str:
    if foreign.pack is not None:  # Half of the damage is within what is compressed.
        plain = foreign.plain
        if rng.random() < 0.5:
            damaged = rng.choice(damage.BYTES)(rng, plain)
            return foreign.pack(damaged) if isinstance(damaged, bytes) else damaged
    elif foreign.is_json and rng.random() < 0.6:
        return damage.retype(rng, whole)
    return rng.choice(damage.BYTES)(rng, whole)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _work(name: str, count: int, seed: int, send) -> None:
    """Fuzzes a reader in this process, and sends what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (_ROOM, _ROOM))
    # What libraries of other languages say of each input is not what is reported.
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    with tempfile.TemporaryDirectory() as folder:
        send.send(fuzz(name, pathlib.Path(folder), count, seed))


def run(name: str, count: int, seed: int) -> collections.Counter:
    """Fuzzes a reader in a process of its own, which a library may end."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(name, count, seed, send))
    process.start()
    send.close()
    try:
        found = receive.recv()
    except EOFError:
        process.join()
        found = collections.Counter({f"ended with exit code {process.exitcode}": 1})
    process.join()
    return found


def main() -> int:
    """Prints a line for each reader; returns 1 if any did what it does not declare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers with this in their name")
    options = parser.parse_args()
    is_bad = False
    for name in READERS:
        if options.only not in name:
            continue
        began = time.monotonic()
        found = run(name, options.count, options.seed)
        seconds = time.monotonic() - began
        read, refused = found.pop("read", 0), found.pop("refused", 0)
        print(f"{name:26} {refused:7} refused {read:7} read {seconds:7.1f} s")
        for what, times in found.most_common(8):
            print(f"    {times} x {what}")
        is_bad = is_bad or bool(found)
        sys.stdout.flush()
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
