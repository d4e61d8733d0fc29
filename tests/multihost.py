"""One of two processes that train together.

A script: python -m tests.multihost PORT INDEX FILES WORKDIR STOP_AT. Process 1 is asked
to stop when it opens batch STOP_AT.
"""

import os
import signal
import sys
import time

from salt_jax.processes import job
from salt_jax.train import train
from salt_jax.training.stop_signals import PreemptedError
from tests.runs import experiment, open_then


def terminate():
    """Asks for a stop, and leaves time for the other process to hear of it."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2.0)


if __name__ == "__main__":
    port, index, files, workdir, stop_at = sys.argv[1:]
    job.join(f"127.0.0.1:{port},2,{index}")
    at = int(stop_at) if index == "1" else -1
    try:
        train(experiment(files), workdir, open_batches=open_then(at, terminate))
    except PreemptedError as stopped:
        print(stopped)
