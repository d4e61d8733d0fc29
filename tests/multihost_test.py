"""Two processes of four devices each do what one of eight does."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from salt_jax.checkpoint import Checkpointer
from salt_jax.export import Export
from salt_jax.main import main
from salt_jax.metrics import read_metrics
from salt_jax.program import Program
from salt_jax.train import train
from tests import commands, runs
from tests.runs import TOTAL_STEPS, experiment

pytestmark = pytest.mark.slow


def on_two_hosts(arguments_of):
    """Runs two processes, `arguments_of(port, index)`; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments_of(port, index))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        written = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, written, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in written]


def train_on_two_hosts(files, workdir, *, stop_at=-1):
    return on_two_hosts(
        lambda port, index: (
            ["-m", "tests.multihost", port, index, files, workdir, stop_at]
        )
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    runs.make_files(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory):
    return train(experiment(files), tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def stopped(files, tmp_path_factory):
    """The workdir of a run of which one host got SIGTERM, and what was printed."""
    workdir = tmp_path_factory.mktemp("stopped")
    return workdir, train_on_two_hosts(files, workdir, stop_at=2)


def assert_same_run(actual, expected):
    # The hosts add up gradients in another order than one process does.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6),
        actual,
        expected,
    )


def test_all_hosts_stop_at_one_step_when_one_is_asked_to(stopped):
    workdir, printed = stopped
    (step,) = {re.search(r"at step (\d+), and saved", text)[1] for text in printed}
    assert 3 <= int(step) < TOTAL_STEPS
    with Checkpointer.reading(workdir / "checkpoints") as saved:
        assert saved.latest_step() == int(step)


def test_two_hosts_go_on_and_end_where_one_process_does(
    files, stopped, unbroken, tmp_path
):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    train_on_two_hosts(files, workdir)
    with Checkpointer.reading(workdir / "checkpoints") as saved:
        state = saved.restore(TOTAL_STEPS, Program.on(experiment(files)).abstract_state)
    assert_same_run(state, unbroken)
    steps = [record["step"] for record in read_metrics(workdir) if "loss" in record]
    assert steps == list(range(1, TOTAL_STEPS + 1))


def test_one_process_goes_on_from_what_two_hosts_saved(
    files, stopped, unbroken, tmp_path
):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    assert_same_run(train(experiment(files), workdir), unbroken)


COMMANDS = """
import sys
from salt_jax.main import main

folder, out, *distributed = sys.argv[1:]
slm = [f"--gin_file={folder}/slm.gin", f"--workdir={out}/slm"]
score = [f"--gin_file={folder}/score.gin", f"--gin.SCORER='{out}/export'"]
for command in (
    ["train", *slm, *distributed],
    ["evaluate", *slm],
    ["export", *slm, f"--output={out}/export"],
    ["score", *score, f"--gin.SCORES='{out}/scores'"],
):
    assert main(command) == 0, command
"""


def test_each_command_gives_on_two_hosts_what_it_gives_on_one(tmp_path, monkeypatch):
    commands.write_files(tmp_path)
    assert main([f"--gin_file={tmp_path}/prepare.gin"]) == 0
    one, two = tmp_path / "one", tmp_path / "two"
    printed = on_two_hosts(
        lambda port, index: (
            ["-c", COMMANDS, tmp_path, two, f"--distributed=127.0.0.1:{port},2,{index}"]
        )
    )
    monkeypatch.setattr(sys, "argv", ["-", str(tmp_path), str(one)])
    exec(COMMANDS, {})
    assert "bits/byte" in printed[0] and "bits/byte" not in printed[1]
    assert_same_numbers(evaluation(one), evaluation(two))
    exports = [Export.open(out / "export") for out in (one, two)]
    assert exports[0].provenance["step"] == exports[1].provenance["step"] == 6
    bills = [read_metrics(out / "scores") for out in (one, two)]
    for record in bills[0] + bills[1]:
        del record["seconds"]
    assert bills[0] == bills[1] and bills[0][-1]["step"] == 329
    for shard in sorted((one / "scores").glob("*.npy")):
        rows = [np.load(out / "scores" / shard.name) for out in (one, two)]
        for name in rows[0].dtype.names:
            np.testing.assert_allclose(rows[0][name], rows[1][name], rtol=1e-4)


def evaluation(out):
    return json.loads((out / "slm" / "evaluation.json").read_text())


def assert_same_numbers(first, second):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), first, second
    )
