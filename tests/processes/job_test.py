"""Real processes of one job: they must agree, and they end together."""

import os
import socket
import subprocess
import sys

import pytest

from salt_jax.main import main
from tests import command_files

pytestmark = pytest.mark.slow


def run(*arguments):
    """Runs a script of tests/soak; it exits with 0 if all went as declared."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def test_a_fault_on_one_process_is_told_by_the_other():
    kinds = "killed,frozen,refusal,bug,never joins"
    assert len(run("tests/soak/faults.py", f"--kinds={kinds}").splitlines()) == 10


def test_killed_runs_end_bit_for_bit_as_the_unbroken_one():
    said = run("tests/soak/chaos.py", "--count=7", "--processes=2")
    assert said.count("the others ended after") == 7
    assert "continued on 4" in said


def start_two(commands):
    """Starts a process with each command line; returns their codes and their words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        joining = f"--distributed=127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "salt_jax.main", *command, f"{joining},2,{index}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, command in enumerate(commands)
    ]
    said = [process.communicate(timeout=240)[1] for process in started]
    lines = [[x for x in text.splitlines() if x[:9] == "salt_jax:"] for text in said]
    return [process.returncode for process in started], lines


def test_another_seed_on_one_process_is_named_by_both(tmp_path):
    command_files.write_files(tmp_path)
    assert main([f"--gin_file={tmp_path}/prepare.gin"]) == 0
    train = ["train", f"--gin_file={tmp_path}/slm.gin", f"--workdir={tmp_path}/run"]
    codes, lines = start_two([train, [*train, "--gin.config.Experiment.seed=5"]])
    assert codes == [2, 2]
    for (line,) in lines:
        assert "rocess 1" in line and "seed=5" in line and "seed=0" in line
    assert not (tmp_path / "run").exists()
