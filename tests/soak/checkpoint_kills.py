"""Kills a process at chosen and random moments of saving: the latest is always whole.

    python tests/soak/checkpoint_kills.py --count=60 --seed=0

A child saves steps one after the other, each filled with its number, and says when one
is on disk. It is killed with SIGKILL in turn before the rename that completes a
checkpoint, after it, before the index is read back, within the deletion of an older
checkpoint (after its rename, half deleted), and after a random time. Then the latest
checkpoint must be the last that was said to be on disk or a later one, hold its own
step in every array, and be whole; nothing half written may be left once training opens
the folder again, which goes on saving in the next round.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.retention import Retention

ROOT = pathlib.Path(__file__).parents[2]
KEEP = Retention(every=1, max_to_keep=2)
MOMENTS = ("before rename", "after rename", "before reading", "deleting", "random")
SIZE = 200_000

CHILD = """
import os, pathlib, signal, sys, time
import jax.numpy as jnp
from orbax.checkpoint._src.path import atomicity
from salt_jax.storage import checkpoint_folder
from salt_jax.storage.checkpoint import Checkpointer
from tests.soak.checkpoint_kills import KEEP, state_of

folder, moment, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
saves = 0

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_within(function, *, first):
    def wrapped(self, *args, **options):
        if saves <= after:
            return function(self, *args, **options)
        if not first:
            function(self, *args, **options)
        die()
    return wrapped

def half_deleted(self, step):
    if saves <= after:
        return delete(self, step)
    path = self.path(step)
    path = path.rename(path.parent / f"{path.name}.deleting")
    for number, file in enumerate(sorted(pathlib.Path(path).rglob("*"))):
        if file.is_file() and number % 2:
            file.unlink()
    die()

class_ = checkpoint_folder.CheckpointFolder
delete, verify = class_.delete, class_.verify_index
rename = atomicity.AtomicRenameTemporaryPath
if moment == "before rename":
    async def finalize(self):
        die() if saves > after else await whole(self)
    whole, rename.finalize = rename.finalize, finalize
elif moment in ("after rename", "before reading"):
    class_.verify_index = dies_within(verify, first=moment == "after rename")
elif moment == "deleting":
    class_.delete = half_deleted

with Checkpointer(folder, KEEP) as saved:
    begin = (saved.latest_step() or 0) + 1
    print("ready", flush=True)
    for step in range(begin, begin + 1000):
        saves += 1
        saved.save(step, state_of(step), {"step": step})
        saved.wait()
        print(step, flush=True)
"""


def state_of(step: int) -> dict:
    """Returns a state that holds its step everywhere."""
    return {
        "step": jnp.int32(step),
        "params": {"w": jnp.full((SIZE,), step, jnp.float32)},
    }


def kill_once(folder: pathlib.Path, moment: str, choose: random.Random) -> None:
    """Runs a child until it is killed at a moment, and checks what it left.

    Raises:
      AssertionError: something is lost, damaged, or left behind.
    """
    before = SavedCheckpoints(folder).latest_step() or 0
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), moment, str(choose.randint(2, 4))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    assert line == "ready", (line, child.communicate())
    if moment == "random":
        time.sleep(choose.uniform(0.0, 0.6))
        child.kill()
    said, errors = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, errors
    last = max([before, *map(int, said.split())])
    check_whole(folder, last)


def check_whole(folder: pathlib.Path, last: int) -> None:
    """Checks that the latest is of `last` or the step after it, and all are whole."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state_of(0)
    )
    reader = SavedCheckpoints(folder)
    latest = reader.latest_step()
    assert (latest or 0) in (last, last + 1), (latest, last)
    for step in reader.all_steps():
        reader.verify_arrays(step)
        found = reader.restore(step, like)
        jax.tree.map(np.testing.assert_array_equal, found, state_of(step))
        assert reader.read_meta(step) == {"step": step}
    with Checkpointer(folder, KEEP) as saved:
        names = {path.name for path in folder.iterdir()}
        assert names == {str(step) for step in saved.all_steps()}, names


def main() -> int:
    """Kills, prints a table, and returns 1 if a checkpoint was lost or damaged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    choose, outcomes = random.Random(given.seed), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.count):
            moment = MOMENTS[number % len(MOMENTS)]
            try:
                kill_once(pathlib.Path(folder), moment, choose)
                outcomes[moment, "survived"] += 1
            except AssertionError as error:
                print(f"{moment}: {error}")
                outcomes[moment, "failed"] += 1
    for (moment, outcome), count in sorted(outcomes.items()):
        print(f"{moment:20} {outcome:10} {count:6}")
    return int(any(outcome == "failed" for _, outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
