import dataclasses
import json
import os
import subprocess
import sys

import pytest

from salt_jax import config
from salt_jax.commands import parser
from salt_jax.data.reading.loader import open_batches
from salt_jax.files.lock import alone_in
from salt_jax.files.records import write_record
from salt_jax.main import main
from salt_jax.optim.guard import UpdateGuard
from salt_jax.telemetry.metric_writer import MetricWriter, read_metrics
from salt_jax.telemetry.status import read_status
from salt_jax.train import train
from tests import runs
from tests.runs import N_KD, TOTAL_STEPS

RECORD = {
    "stage": "distill",
    "loss": 2.5,
    "step_seconds": 2.0,
    "tokens_per_second": 1000.0,
    "input_stall": 0.01,
    "seconds": 80.0,
    "wall_seconds": 100.0,
    "compile_seconds": 12.0,
    "validation_seconds": 6.0,
    "save_seconds": 2.0,
}


@pytest.fixture
def started(tmp_path):
    """A run that has begun, and has neither made a step nor saved."""
    experiment = runs.experiment("/nowhere")
    write_record(tmp_path / "experiment.json", config.as_json(experiment))
    return tmp_path


def write(workdir, step, **changes):
    writer = MetricWriter(workdir, from_step=step - 1)
    writer.write(step, RECORD | changes)
    writer.close()


def test_a_run_that_has_made_no_step_has_a_status(started, capsys):
    assert main(["status", str(started)]) == 0
    said = capsys.readouterr().out
    assert "no step" in said and f"0 of {TOTAL_STEPS}" in said and "'distill'" in said
    status = read_status(started)
    assert (status.checkpoint, status.left_seconds, status.goodput) == (None,) * 3


def test_the_process_that_works_on_a_run_is_named(started, capsys):
    with alone_in(started):
        assert read_status(started).holder.pid == os.getpid()
        assert main(["status", str(started)]) == 0
        assert f"process {os.getpid()} on " in capsys.readouterr().out
    assert main(["status", str(started), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holder"] is None


def test_a_status_is_the_last_record_and_the_time_that_is_left(started):
    write(started, 1)
    writer = MetricWriter(started, from_step=1)
    writer.write(2, {"val_loss": 2.25, "seconds": 80.0})
    writer.close()
    write(started, 3, loss=2.0, skipped_updates=1)
    status = read_status(started)
    assert (status.step, status.stage, status.skipped_updates) == (3, "distill", 1)
    assert status.losses == {"loss": 2.0, "val_loss": 2.25}
    assert status.goodput == 0.8
    # Four steps of two seconds, and validations and saves at a tenth of the steps.
    assert status.left_seconds == pytest.approx(4 * 2.0 * 1.1)
    write(started, N_KD)
    assert read_status(started).stage == "standard"


def test_the_end_of_a_long_file_is_enough_and_half_a_line_is_no_obstacle(started):
    write(started, 1, note="x" * 300_000)
    write(started, 2)
    with (started / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "sta')
    assert read_status(started).step == 2


def test_a_checkpoint_that_is_being_written_is_none(started):
    for name in ("2", "5.orbax-checkpoint-tmp", "notes"):
        (started / "checkpoints" / name).mkdir(parents=True)
    os.utime(started / "checkpoints" / "2", (0, 1_000_000_000))
    status = read_status(started)
    assert status.checkpoint.step == status.step == 2
    assert status.checkpoint.age_seconds > 3e8


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "experiment.json" in capsys.readouterr().err


def test_damaged_warnings_are_a_warning(started):
    (started / "warnings.json").write_text("{}\n")
    (warned,) = read_status(started).warnings
    assert "warnings.json" in warned["message"]


PROGRAM = """
import sys
from salt_jax.main import main
assert main(["status", sys.argv[1], "--json"]) == 0
slow = {"flax", "gin", "jax", "numpy", "tensorboardX"} & set(sys.modules)
assert not slow, slow
"""


def test_a_status_needs_nothing_that_is_slow_to_import(started):
    write(started, 1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(started)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 1


def open_spoiled(loader, begin_index):
    """Opens batches of which the second and the last have no finite loss."""
    read = loader.device_batch

    def device_batch(index):
        batch = read(index)
        if index not in (1, TOTAL_STEPS - 1):
            return batch
        return batch.replace(weights_BL=batch.weights_BL * float("nan"))

    loader.device_batch = device_batch
    return open_batches(loader, begin_index)


@pytest.mark.slow
def test_a_real_run_that_died_and_one_that_ended_have_a_status(tmp_path, capsys):
    runs.make_files(tmp_path)
    run = runs.experiment(tmp_path, guard=UpdateGuard(max_in_a_row=1))
    workdir = tmp_path / "run"
    with pytest.raises(FloatingPointError, match="step 2 "):
        train(run, workdir, open_batches=open_spoiled)
    assert main(["status", str(workdir)]) == 0
    said = capsys.readouterr().out
    assert "error" in said and "step 2 " in said and f"1 of {TOTAL_STEPS}" in said
    run = dataclasses.replace(run, guard=UpdateGuard())
    accepted = ["guard.max_in_a_row"]
    train(run, workdir, open_batches=open_spoiled, accepted_changes=accepted)
    assert main(["status", str(workdir), "--json", "--warnings=1"]) == 0
    found = json.loads(capsys.readouterr().out)
    last = [r for r in read_metrics(workdir) if "stage" in r][-1]
    assert found["is_complete"]
    assert found["checkpoint"]["step"] == found["step"] == TOTAL_STEPS
    assert found["goodput"] == pytest.approx(last["goodput"])
    assert found["skipped_updates"] == 2
    assert [x["message"].split()[4] for x in found["warnings"]] == [str(TOTAL_STEPS)]


def test_a_number_of_warnings_is_taken(started):
    _, options = parser.parse(["status", "runs/x", "--warnings=3"])
    assert (options.run, options.warnings) == ("runs/x", 3)
