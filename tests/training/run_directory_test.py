"""A run directory is of one run, and a refused start leaves it as it was."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from salt_jax.data.reading.loader import open_batches
from salt_jax.files.lease import LockedError
from salt_jax.files.lock import alone_in
from salt_jax.files.records import read_record, write_record
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import MetricWriter, read_metrics
from salt_jax.train import train
from salt_jax.training.run_directory import write_config
from tests.runs import TOTAL_STEPS, experiment, train_until


@pytest.fixture(scope="module")
def begun_once(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("begun") / "run"
    train_until(5, experiment(files), workdir)
    return workdir


@pytest.fixture
def begun(begun_once, tmp_path):
    """A run that was broken off: records to step 4, checkpoints of steps 2 and 4."""
    return shutil.copytree(begun_once, tmp_path / "run")


def contents(folder):
    """Returns every file with its contents and the time of its last change."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "accepted", "message"),
    [
        ({"seed": 5}, [], r"seed.*--accept_change=seed"),
        ({"batch_size": 6}, ["batch_size"], "batch_size=6"),
        ({"batch_size": 16}, [], r"--accept_change=batch_size"),
        ({"seq_len": 8}, ["seq_len"], "32 rows of seq_len=16.*seq_len=8"),
    ],
)
def test_a_refused_resume_writes_nothing(change, accepted, message, files, begun):
    before = contents(begun)
    with pytest.raises(ValueError, match=message):
        train(experiment(files, **change), begun, accepted_changes=accepted)
    assert contents(begun) == before


def test_a_resume_without_its_inputs_writes_nothing(files, begun, tmp_path):
    gone = shutil.copytree(files, tmp_path / "gone")
    run = dataclasses.replace(
        experiment(files),
        stages=tuple(
            dataclasses.replace(
                stage, data=dataclasses.replace(stage.data, path=f"{gone}/data")
            )
            for stage in experiment(files).stages
        ),
    )
    shutil.rmtree(gone / "data")
    before = contents(begun)
    with pytest.raises(FileNotFoundError):
        names = ["stages.0.data.path", "stages.1.data.path"]
        train(run, begun, accepted_changes=names)
    assert contents(begun) == before


def test_a_refused_start_leaves_no_folder(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="No export at /nowhere"):
        train(experiment(files, initial_export="/nowhere"), tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_directory_in_use_is_refused(files, begun):
    with alone_in(begun):
        before = contents(begun)
        with pytest.raises(LockedError, match=str(begun)):
            train(experiment(files), begun)
        assert contents(begun) == before


@pytest.mark.slow
def test_a_run_killed_before_its_first_save_is_not_replaced(files, tmp_path):
    train_until(1, experiment(files), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=r"experiment\.json .*seed.*accept_change=seed"
    ):
        train(experiment(files, seed=5), tmp_path)
    assert contents(tmp_path) == before
    train(experiment(files), tmp_path, open_batches=open_batches)
    steps = [r["step"] for r in read_metrics(tmp_path) if "loss" in r]
    assert steps == list(range(1, TOTAL_STEPS + 1))


@pytest.mark.parametrize("emptied", [True, False])
def test_metrics_without_their_checkpoints_are_not_erased(emptied, files, begun):
    shutil.rmtree(begun / "checkpoints")
    if emptied:
        (begun / "checkpoints").mkdir()
        writer = MetricWriter(begun, from_step=4)
        writer.write(5, {"loss": 1.0})
        writer.close()
    before = contents(begun)
    last = 5 if emptied else 4
    with pytest.raises(ValueError, match=rf"steps up to {last}, .*metrics\.jsonl"):
        train(experiment(files), begun)
    assert contents(begun) == before


def test_checkpoints_without_their_metrics_are_resumed_and_it_is_said(
    files, begun, caplog
):
    (begun / "metrics.jsonl").unlink()
    train(experiment(files, log_every=2), begun)
    assert any("ends at step 0" in x and "step 4" in x for x in caplog.messages)


def test_the_configuration_before_an_accepted_change_is_kept(files, tmp_path):
    first, second = experiment(files), experiment(files, seed=5)
    write_config(tmp_path, first, "A = 1\n", step=0)
    write_config(tmp_path, first, "A = 1\n", step=0)
    assert not (tmp_path / "earlier_configs").exists()
    write_config(tmp_path, second, "A = 2\n", step=3)
    write_config(tmp_path, first, "A = 3\n", step=3)
    assert (tmp_path / "config.gin").read_text() == "A = 3\n"
    for name, gin, seed in (("3", "A = 1\n", 0), ("3_2", "A = 2\n", 5)):
        kept = tmp_path / "earlier_configs" / f"until_step_{name}"
        assert (kept / "config.gin").read_text() == gin
        found = read_record(kept / "experiment.json", dict, remedy="")
        assert found["seed"] == seed


class Rows:
    """Opens batches, and notes the numbers of the rows that are read."""

    def __init__(self):
        self.read = []

    def __call__(self, loader, begin_index):
        batches = open_batches(loader, begin_index)
        rows, index = self.read, begin_index

        class Noting:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                batches.close()

            stall_seconds = 0.0

            def __next__(self):
                nonlocal index
                rows.extend(loader.row_numbers(index).tolist())
                index += 1
                return next(batches)

        return Noting()


@pytest.mark.slow
def test_another_batch_size_neither_skips_nor_repeats_a_row(files, begun):
    larger, rows = experiment(files, batch_size=16, log_every=1), Rows()
    train(larger, begun, accepted_changes=["batch_size"], open_batches=rows)
    # 4 steps of 8 rows, and 3 of 16.
    assert rows.read == list(range(32, 80))
    records = {r["step"]: r for r in read_metrics(begun) if "loss" in r}
    tokens = [records[step]["tokens"] for step in range(1, 8)]
    assert tokens == [128, 256, 384, 512, 768, 1024, 1280]
    flops = np.diff([0] + [records[step]["flops"] for step in range(1, 8)])
    assert flops[0] == flops[3] and flops[4] == flops[6]
    saved = SavedCheckpoints.of(begun / "checkpoints")
    assert saved.read_meta(7)["position"] == {
        "step": 7, "rows": 80, "tokens": 1280, "flops": records[7]["flops"],
    }  # fmt: skip
    # Killed and resumed, it goes on from there, and back to the first size too.
    shutil.rmtree(begun / "checkpoints" / "7")
    rows = Rows()
    train(experiment(files), begun, accepted_changes=["batch_size"], open_batches=rows)
    assert rows.read == list(range(64, 72))


def test_another_version_of_a_package_is_a_line(files, begun, caplog):
    path = begun / "checkpoints" / "4" / "meta" / "metadata"
    record = read_record(path, dict, remedy="")
    record["meta"]["versions"]["jax"] = "0.1.2"
    write_record(path, record)
    train(experiment(files), begun)
    lines = [x for x in caplog.messages if " at the checkpoint" in x]
    assert lines == [f"jax was 0.1.2 at the checkpoint, and is {jax.__version__}."]
