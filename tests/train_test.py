import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from salt_jax.data.reading.loader import open_batches
from salt_jax.data.selecting.ranking import HighestScores
from salt_jax.data.selecting.selection import Selection
from salt_jax.files.changes import changed_fields
from salt_jax.optim.schedules import Constant
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.stop_signals import PreemptedError
from tests import runs
from tests.docs_test import documented
from tests.examples import batch_ids
from tests.made_scores import write_scores
from tests.runs import (
    N_KD,
    TOTAL_STEPS,
    assert_same,
    experiment,
    open_then,
    train_until,
)
from tests.soak import kills


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory):
    """The workdir and the last state of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, train(experiment(files), workdir)


def live_shapes():
    return {x.shape for x in jax.live_arrays()}


def teacher_shapes(files):
    shapes = {(4096, runs.TEACHER.embed_dim)}
    return shapes | {(1, runs.TEACHER.embed_dim, 32)}


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_where_an_unbroken_one_does(tmp_path):
    assert sum(kills.campaign(5, 0, tmp_path).values()) >= 5


@pytest.mark.slow
def test_every_metric_of_a_run_has_a_row_in_the_page_of_metrics(unbroken):
    names = set().union(*read_metrics(unbroken[0]))
    assert names >= {"kl", "val_loss", "goodput"}
    # A warning's name is in its own row of another page.
    names = {"warning_NAME" if x.startswith("warning_") else x for x in names}
    assert names <= documented("Training")


def test_the_run_in_two_stages_is_recorded_as_it_was(unbroken):
    records = [r for r in read_metrics(unbroken[0]) if "loss" in r]
    stages = [r["stage"] for r in records]
    assert stages == ["distill"] * N_KD + ["standard"] * (TOTAL_STEPS - N_KD)
    assert all("kl" in r for r in records[:N_KD])
    assert not any("kl" in r for r in records[N_KD:])
    assert [r["tokens"] for r in records] == [128 * s for s in range(1, 8)]
    flops = np.diff([r["flops"] for r in records])
    assert flops[0] > flops[-1]
    validated = [r["step"] for r in read_metrics(unbroken[0]) if "val_loss" in r]
    assert validated == [3, 6, 7]


def test_the_time_of_a_run_is_accounted_for(unbroken):
    last = [r for r in read_metrics(unbroken[0]) if "loss" in r][-1]
    parts = ("compile", "restore", "validation", "save")
    assert all(last[f"{part}_seconds"] > 0.0 for part in parts)
    assert last["lost_seconds"] == 0.0
    assert 0.0 < last["goodput"] == last["seconds"] / last["wall_seconds"] < 1.0


@pytest.mark.slow
def test_a_run_that_failed_goes_on_counting_and_says_what_it_lost(files, tmp_path):
    run = experiment(files, validation=None, save_every=3)
    began = time.monotonic() - 1000.0  # It waited to be given a machine.
    train_until(5, run, tmp_path, began=began)
    before = {r["step"]: r for r in read_metrics(tmp_path)}
    assert list(before) == [1, 2, 3, 4]
    train(run, tmp_path)
    again, last = [read_metrics(tmp_path)[i] for i in (3, -1)]
    # The checkpoint is of step 3, and step 4 was made again.
    lost = before[4]["wall_seconds"] - before[3]["wall_seconds"]
    assert 0.0 < again["lost_seconds"] <= lost
    assert before[4]["wall_seconds"] < again["wall_seconds"] < last["wall_seconds"]
    assert again["seconds"] >= before[3]["seconds"] + again["step_seconds"]
    assert again["compile_seconds"] > before[4]["compile_seconds"]
    assert 1000.0 < last["other_seconds"] < 1100.0


def test_what_was_run_is_written_before_the_first_step(files, tmp_path):
    def look():
        written = json.loads((tmp_path / "experiment.json").read_text())
        assert written["stages"][0]["distillation"]["kd_weight"]["value"] == 0.667
        assert (tmp_path / "config.gin").read_text() == "A = 1\n"
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(
            experiment(files),
            tmp_path,
            operative_gin="A = 1\n",
            open_batches=open_then(0, look),
        )


def test_it_is_said_how_often_each_stage_reads_its_text(files, tmp_path, caplog):
    run = experiment(files)
    count = len(run.stages[0].data.open(seq_len=runs.SEQ_LEN))
    few = dataclasses.replace(run.stages[0].data, selection=FirstSequences(count=20))
    stages = (dataclasses.replace(run.stages[0], data=few), run.stages[1])

    with caplog.at_level(logging.INFO, logger="absl"):
        train_until(0, dataclasses.replace(run, stages=stages), tmp_path)
    assert (
        "Stage 'distill' reads 32 rows of 20 that were selected: 1.60 epochs, each in "
        "an order of its own."
    ) in caplog.messages
    assert (
        f"Stage 'standard' reads 24 rows of {count:,} that there are: "
        f"{24 / count:.2%} of an epoch."
    ) in caplog.messages


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstSequences:
    """A selection of the first sequences."""

    count: int

    def select(self, dataset):
        return np.arange(self.count)


def test_after_the_transition_no_buffer_is_the_teacher_s(files, tmp_path):
    seen = {}

    def opening(loader, begin_index):
        seen[begin_index] = live_shapes()
        return open_batches(loader, begin_index)

    def look():
        seen["in stage one"] = live_shapes()

    def first_then(loader, begin_index):
        if begin_index == 0:
            return open_then(1, look)(loader, begin_index)
        return opening(loader, begin_index)

    train(experiment(files), tmp_path, open_batches=first_then)
    assert teacher_shapes(files) & seen["in stage one"] == teacher_shapes(files)
    assert not teacher_shapes(files) & seen[N_KD]


def test_a_resume_after_the_transition_does_not_need_the_teacher(
    files, unbroken, tmp_path
):
    own = tmp_path / "files"
    shutil.copytree(files, own)
    run = experiment(own)

    train_until(N_KD + 2, run, tmp_path / "run")
    shutil.rmtree(own / "teacher")
    assert_same(train(run, tmp_path / "run"), unbroken[1])


def test_stage_two_equals_a_run_that_never_had_a_teacher(files, unbroken, tmp_path):
    workdir, expected = unbroken
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(workdir / "checkpoints" / str(N_KD), checkpoints / str(N_KD))
    plain = experiment(files, stages=experiment(files).stages[1:])
    changed = ["stages.0", "stages.1"]
    with pytest.raises(ValueError, match="started with other values of stages"):
        train(plain, tmp_path)
    names = _changed_names(experiment(files), plain)
    assert any(name.startswith(tuple(changed)) for name in names)
    assert_same(train(plain, tmp_path, accepted_changes=names), expected)


def _changed_names(before, after):
    from salt_jax import config

    return changed_fields(config.as_json(before), config.as_json(after))


def test_a_checkpoint_holds_no_teacher(unbroken):
    files = (unbroken[0] / "checkpoints" / str(N_KD)).rglob("*")
    names = " ".join(str(path) for path in files)
    assert "state" in names and "teacher" not in names


def test_a_complete_run_is_left_as_it_is(files, unbroken):
    workdir, expected = unbroken
    before = sorted(p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*/*"))
    assert_same(train(experiment(files), workdir), expected)
    after = sorted(p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*/*"))
    assert before == after


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on_from_there(files, unbroken, tmp_path):
    terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(PreemptedError, match="Stopped at step 3, and saved"):
        train(experiment(files), tmp_path, open_batches=open_then(2, terminate))
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert_same(train(experiment(files), tmp_path), unbroken[1])


def test_signals_during_the_save_change_nothing(files, tmp_path, monkeypatch):
    def save_now(saved, *arguments):
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
        return real(saved, *arguments)

    real = Checkpointer.save_now
    monkeypatch.setattr(Checkpointer, "save_now", save_now)
    terminate = lambda: os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(PreemptedError) as stopped:
        train(experiment(files), tmp_path, open_batches=open_then(2, terminate))
    assert stopped.value.exit_code == 75
    assert SavedCheckpoints.of(tmp_path / "checkpoints").latest_step() == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(files, tmp_path):
    hot = dataclasses.replace(
        experiment(files).optimizer, learning_rate=Constant(value=1e36), clip_norm=None
    )
    with pytest.raises(FloatingPointError) as stop:
        train(experiment(files, optimizer=hot, save_every=1), tmp_path)
    found = re.search(r"at step (\d) of stage 'distill'", str(stop.value))
    assert found, stop.value
    assert not (tmp_path / "checkpoints" / found[1]).exists()


def test_with_a_selection_stage_one_reads_only_what_was_selected(
    files, tmp_path, caplog
):
    run = experiment(files)
    dataset = run.stages[0].data.open(seq_len=run.seq_len)
    scores = np.arange(len(dataset)) % 7
    write_scores(tmp_path / "scores", dataset, {"mean_loss": scores})
    selection = Selection(
        scores=str(tmp_path / "scores"),
        ranking=HighestScores(score="mean_loss"),
        keep_fraction=0.05,
    )
    selected = set(selection.select(dataset).tolist())
    first, second = run.stages
    data = dataclasses.replace(first.data, selection=selection)
    run = experiment(files, stages=(dataclasses.replace(first, data=data), second))
    read = {}

    def opening(loader, begin_index):
        read[begin_index] = {
            i for step in range(N_KD) for i in batch_ids(loader, begin_index + step)
        }
        return open_batches(loader, begin_index)

    train(run, tmp_path / "run", open_batches=opening)
    assert read[0] <= selected and len(read[0]) > 8
    assert not read[N_KD] <= selected
    warned = [x.message for x in caplog.records if x.levelname == "WARNING"]
    few = f", and {len(selected)} are kept: it repeats each"
    assert any("Stage 'distill'" in line and few in line for line in warned)
    assert any("domains lose more than 90%" in line for line in warned)


@pytest.mark.slow
def test_the_second_stage_reads_what_a_run_without_a_first_one_reads(files, tmp_path):
    indices = []

    def opening(loader, begin_index):
        indices.append((begin_index, batch_ids(loader, begin_index).tolist()))
        return open_batches(loader, begin_index)

    train(experiment(files), tmp_path / "salt", open_batches=opening)
    plain = experiment(files, stages=experiment(files).stages[1:])

    def from_the_start(loader, begin_index):
        indices.append((N_KD, batch_ids(loader, N_KD).tolist()))
        return open_batches(loader, begin_index)

    train(plain, tmp_path / "plain", open_batches=from_the_start)
    assert indices[1] == indices[2]


def test_an_experiment_that_is_far_too_large_is_refused_before_anything_is_made(
    files, tmp_path
):
    huge = dataclasses.replace(runs.STUDENT, num_layers=200, mlp_dim=2**24)
    before = len(jax.live_arrays())
    with pytest.raises(ValueError, match=r"at least [\d.]+ GiB") as no:
        train(experiment(files, model=huge), tmp_path / "run")
    assert "optimizer" in str(no.value) and "has" in str(no.value)
    assert len(jax.live_arrays()) <= before  # Earlier tests' arrays may be freed.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 6}, "batch_size=6 does not divide into 4 parts"),
        ({"num_microbatches": 4}, "batch_size=8 does not divide into 16 parts"),
        ({"seq_len": 32}, "prepared with seq_len=16, not 32; a longer one"),
        ({"initial_export": "/nowhere"}, "No export at /nowhere"),
    ],
)
def test_what_cannot_be_run_is_refused(change, message, files, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(experiment(files, **change), tmp_path)


def with_teacher(files, **changes):
    first, second = experiment(files).stages
    distillation = dataclasses.replace(first.distillation, **changes)
    first = dataclasses.replace(first, distillation=distillation)
    return experiment(files, stages=(first, second))


def test_a_missing_teacher_is_refused_before_the_first_step(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="No export at .*nobody"):
        train(with_teacher(files, teacher_export=str(tmp_path / "nobody")), tmp_path)


def test_a_teacher_of_another_shape_is_refused(files, tmp_path):
    other = dataclasses.replace(runs.TEACHER, num_layers=3)
    with pytest.raises(ValueError, match="num_layers"):
        train(with_teacher(files, teacher=other), tmp_path)


def test_another_experiment_in_the_same_workdir_is_refused(files, unbroken):
    other = experiment(files, seed=5)
    with pytest.raises(ValueError, match=r"other values of seed.*--accept_change=seed"):
        train(other, unbroken[0])


@pytest.mark.slow
def test_a_run_can_start_from_an_export(files, tmp_path):
    runs.make_teacher(tmp_path / "first", model=runs.STUDENT)
    run = experiment(files, initial_export=str(tmp_path / "first"))
    started = read_metrics_of(run, tmp_path / "a")
    fresh = read_metrics_of(experiment(files), tmp_path / "b")
    assert abs(started[0]["ce"] - fresh[0]["ce"]) > 1e-4


def read_metrics_of(run, workdir):
    train(run, workdir)
    return read_metrics(workdir)
