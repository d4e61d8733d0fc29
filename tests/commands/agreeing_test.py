"""Commands of one process are refused where a launcher started several."""

import os

import pytest

from salt_jax.main import main
from tests import command_files

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "a,b",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def slurm(monkeypatch):
    for name in [x for x in os.environ if x.startswith(("OMPI_", "SLURM_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return lambda count: monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(count))


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--gin_file=gin/tiny_prepare.gin"],
        ["select", "--gin_file=gin/tiny_salt_ds.gin"],
        ["--gin_file=gin/tiny_prepare.gin"],
    ],
)
def test_a_command_of_one_process_is_refused_where_slurm_started_two(
    command, slurm, capsys
):
    slurm(2)
    said = command_files.refusal(capsys, *command)
    assert "one process" in said and "Slurm started 2" in said and "(1 is" in said


def test_one_task_of_slurm_is_one_process(slurm, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", "0")
    slurm(1)
    said = command_files.refusal(capsys, "select", "--gin_file=gin/none.gin")
    assert "none.gin" in said


def test_describe_may_run_in_every_process(slurm):
    slurm(2)
    assert main(["describe", "--gin_file=gin/tiny_salt_ds.gin"]) == 0
