"""Kills of launch/pipeline.sh at random moments: it ends as without them.

Run as python tests/soak/pipeline.py --count=N. Each kill is of the whole pipeline (its
process group, SIGKILL) or of its script alone (SIGTERM, which asks to save), up to a
minute after its start. A pipeline that completes is compared with one that nothing
interrupted, and a new one begins.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from salt_jax.storage.export import Export
from salt_jax.telemetry.metric_writer import read_metrics
from tests import command_files

ROOT = pathlib.Path(__file__).parents[2]


def main(arguments=None):
    """Kills pipelines `--count` times; returns 1 if one ended otherwise."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args(arguments)
    rng, kills, wrong = random.Random(options.seed), collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command_files.write_files(folder)
        Pipeline(folder, "reference").finish()
        expected, number = outcome(folder / "reference"), 0
        while kills.total() < options.count:
            number += 1
            pipeline = Pipeline(folder, f"run{number}")
            while kills.total() < options.count:
                how = rng.choice([signal.SIGKILL, signal.SIGTERM])
                at = pipeline.killed(rng.uniform(1, 60), how)
                if at is None:
                    break
                kills[at, how.name] += 1
            pipeline.finish()
            wrong += differences(expected, outcome(folder / f"run{number}"), number)
            shutil.rmtree(folder / f"run{number}")
    for (command, how), times in sorted(kills.items()):
        print(f"{command:10} {how:8} {times:5}")
    print(f"{kills.total()} kills in {number} pipelines, {len(wrong)} differences")
    print("\n".join(wrong))
    return 1 if wrong else 0


class Pipeline:
    """A pipeline in a folder of its own, started as often as it takes."""

    def __init__(self, folder, name):
        self._variables = {
            kind.upper(): f"{folder}/{kind}.gin"
            for kind in ("prepare", "slm", "score", "salt")
        }
        self._variables |= {"SCORER_STEP": "2", "PAUSE": "0", "PYTHONPATH": str(ROOT)}
        self._root = folder / name

    def _start(self):
        return subprocess.Popen(
            ["bash", str(ROOT / "launch" / "pipeline.sh"), str(self._root)],
            env=os.environ | self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self):
        """Runs to the end; an interrupted pipeline must not be refused."""
        process = self._start()
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"Exit code {process.returncode}:\n{said[-3000:]}")

    def killed(self, seconds, how):
        """Starts it, kills it after `seconds`, and returns the command at work then.

        None: the pipeline was complete before.
        """
        process, current = self._start(), ["bash"]

        def read():
            for line in process.stdout:
                if line.startswith("== "):
                    current.append(line.split()[1])

        reader = threading.Thread(target=read)
        reader.start()
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        at = None
        if process.poll() is None:
            at = current[-1]
            if how == signal.SIGKILL:
                os.killpg(process.pid, how)
            else:
                process.send_signal(how)
        process.wait(120)
        reader.join()
        return at


def outcome(root):
    """Returns what a complete pipeline left: numbers, digests and leftovers."""
    losses = {
        name: [r["loss"] for r in read_metrics(root / name) if "loss" in r]
        for name in ("slm", "salt")
    }
    table = json.loads((root / "salt" / "evaluation.json").read_text())
    names = ("slm_early", "slm", "salt")
    return {
        "losses": losses,
        "evaluation": table.get("splits", table),
        "exports": [Export.open(root / "exports" / x).fingerprint for x in names],
        "leftovers": [
            str(path.relative_to(root))
            for path in sorted(root.rglob("*"))
            if any(x in path.name for x in ("partial", "unfinished", ".lock"))
        ],
    }


def differences(expected, found, number):
    """Returns a line for each part of an outcome that differs."""
    return [
        f"run{number}: {name} is {found[name]}, not {expected[name]}"
        for name in expected
        if found[name] != expected[name]
    ]


if __name__ == "__main__":
    sys.exit(main())
