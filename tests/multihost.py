"""One of two processes that train together.

A script: python -m tests.multihost PORT INDEX FILES WORKDIR STOP_AT [EXPERIMENT].
EXPERIMENT is the name of a function of `tests.runs`. Process 1 is asked to stop when
it opens batch STOP_AT; if the experiment is `adaptive`, it is killed then, and the
held-out losses that it measures are wrong. Each prints the rows that it has trained on.
"""

import contextlib
import os
import signal
import sys
import time

from salt_jax.evaluation.held_out_text import HeldOutText
from salt_jax.mesh import agreement
from salt_jax.processes import job
from salt_jax.train import train
from salt_jax.training.stop_signals import PreemptedError
from tests import runs
from tests.runs import open_then


def terminate():
    """Asks for a stop, and leaves time for the other process to hear of it."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2.0)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def measure_wrongly():
    """Makes this process find losses at which no student reaches its teacher."""
    opened = HeldOutText.open

    def wrong(self):
        measure = opened(self)
        return lambda params: {k: x + 9.0 for k, x in measure(params).items()}

    HeldOutText.open = wrong


def noting(opening, rows):
    """Opens batches as `opening` does, and notes this process' rows of those it got."""

    @contextlib.contextmanager
    def opened(loader, begin_index):
        host_batch, own = loader.host_batch, {}

        def noted(index, part):
            own.setdefault(index, []).extend(loader.row_numbers(index)[part].tolist())
            return host_batch(index, part)

        loader.host_batch = noted
        with opening(loader, begin_index) as batches:
            yield Noted(batches, own, begin_index)

    class Noted:
        stall_seconds = 0.0

        def __init__(self, batches, own, index):
            self._batches, self._own, self._index = batches, own, index

        def __next__(self):
            batch = next(self._batches)
            rows.extend(self._own[self._index])
            self._index += 1
            return batch

    return opened


if __name__ == "__main__":
    port, index, files, workdir, stop_at, *name = sys.argv[1:]
    experiment = getattr(runs, name[0] if name else "experiment")
    job.join(f"127.0.0.1:{port},2,{index}")
    at = int(stop_at) if index == "1" else -1
    dies = experiment is runs.adaptive
    if dies and index == "1":
        measure_wrongly()
    print(agreement.of_process_0({"index": 0.1 + float(index)}))
    rows = []
    opening = noting(open_then(at, kill if dies else terminate), rows)
    try:
        train(experiment(files), workdir, open_batches=opening)
    except PreemptedError as stopped:
        print(stopped)
    print("rows", rows)
