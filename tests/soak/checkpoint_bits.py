"""Flips random bits in the files of a checkpoint: none may be restored unnoticed.

    python tests/soak/checkpoint_bits.py --count=400 --seed=0

Each of --count flips is made in a fresh copy of a checkpoint of a small run, in a file
drawn at random: half of the time from all files alike, half of the time by their sizes.
The copy is then restored, once all of it and once the parameters only, and verified.

    refused    a line that names the step or the file
    harmless   what was restored, and the record, are bit for bit what was saved
    silent     anything else was restored
    traceback  another error than ValueError, FileNotFoundError or OSError
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import pathlib
import random
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.retention import Retention

STEP = 12
META = {"stage": "one", "experiment": {"seed": 0}}
METRICS = {"val_loss": 2.25}


def make_state() -> dict:
    """Returns a state with the names and kinds of arrays of a real one."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    params = lambda: {"embedding": draw(64, 32), "layers": {"gate": draw(2, 32, 48)}}
    return {
        "step": jax.numpy.int32(STEP),
        "params": params(),
        "opt_state": {"mu": params(), "nu": params()},
    }


@dataclasses.dataclass
class Campaign:
    """A checkpoint, and what became of each flipped bit in it."""

    folder: pathlib.Path
    state: dict
    outcomes: collections.Counter

    @classmethod
    def begin(cls, folder: pathlib.Path) -> Campaign:
        """Saves a checkpoint in `folder`."""
        state = make_state()
        with Checkpointer(folder / "whole", Retention(every=1, max_to_keep=1)) as saved:
            saved.save_now(STEP, state, META, METRICS)
        return cls(folder, state, collections.Counter())

    def flip(self, choose: random.Random) -> str:
        """Flips one bit of a copy; returns what became of it, and counts it."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / "whole", copy)
        files = sorted(x for x in copy.rglob("*") if x.is_file() and x.stat().st_size)
        sizes = [path.stat().st_size for path in files]
        weights = sizes if choose.random() < 0.5 else None
        (file,) = choose.choices(files, weights)
        content = bytearray(file.read_bytes())
        bit = choose.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        outcome = self.outcome(copy)
        place = str(file.relative_to(copy / str(STEP)))
        kind = "arrays" if "/d/" in place else place
        self.outcomes[kind, outcome.partition(":")[0]] += 1
        return f"{place} bit {bit}: {outcome}"

    def outcome(self, folder: pathlib.Path) -> str:
        """Returns what reading the checkpoint in `folder` does."""
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), self.state
        )
        saved = SavedCheckpoints(folder)
        try:
            record = saved.record(STEP)
            found = saved.restore(STEP, like)
            params = saved.restore_params(STEP, like["params"])
            saved.verify_arrays(STEP)
        except (ValueError, FileNotFoundError, OSError) as error:
            named = str(folder) in str(error) and "\n" not in str(error)
            return "refused" if named else f"unnamed: {error!r}"
        except BaseException as error:
            return f"traceback: {error!r}"
        same = jax.tree.map(np.array_equal, [found, params], [self.state, self.params])
        record_same = (record.meta, record.metrics) == (META, METRICS)
        whole = all(jax.tree.leaves(same)) and record_same
        return "harmless" if whole else "silent"

    @property
    def params(self) -> dict:
        """The parameters of the state."""
        return self.state["params"]


def main() -> int:
    """Flips bits, prints a table, and returns 1 if one was not noticed or refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    choose = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign.begin(pathlib.Path(folder))
        for _ in range(arguments.count):
            line = campaign.flip(choose)
            if not line.endswith((": refused", ": harmless")):
                print(line)
    totals: collections.Counter = collections.Counter()
    for (kind, outcome), count in sorted(campaign.outcomes.items()):
        print(f"{kind:40} {outcome:10} {count:6}")
        totals[outcome] += count
    print(f"{'all':40} {dict(totals)}")
    return int(bool(set(totals) - {"refused", "harmless"}))


if __name__ == "__main__":
    sys.exit(main())
