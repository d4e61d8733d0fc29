"""Real runs of both stages with a batch that makes the loss not finite."""

import dataclasses
import logging
import re

import jax
import numpy as np
import pytest

from salt_jax.data.reading.loader import open_batches
from salt_jax.optim.guard import UpdateGuard
from salt_jax.storage.export import Export
from salt_jax.storage.export_writing import write_export
from salt_jax.storage.loaded import LoadedModel
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from tests import runs
from tests.runs import N_KD, TOTAL_STEPS, assert_same

GUARD = UpdateGuard(sigmas=6.0, window=4)


class StopError(Exception):
    """Ends a run as no mistake of its data does."""


def open_spoiled(bad, stop_at=None):
    """Opens batches of which `bad` have no finite loss, or are not read at all."""

    def open_them(loader, begin_index):
        read = loader.device_batch

        def device_batch(index):
            if index == stop_at:
                raise StopError
            batch = read(index)
            if index not in bad:
                return batch
            return batch.replace(weights_BL=batch.weights_BL * float("nan"))

        loader.device_batch = device_batch
        return open_batches(loader, begin_index)

    return open_them


def run(files, workdir, bad=(), *, stop_at=None, accepted=(), **changes):
    experiment = runs.experiment(files, **{"validation": None} | changes)
    return train(
        experiment,
        workdir,
        accepted_changes=accepted,
        open_batches=open_spoiled(bad, stop_at),
    )


def assert_close(actual, expected):
    """Of two programs, whose rounding differs: with the guard's choice, and without."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *(dataclasses.replace(x, guard=None) for x in (actual, expected)),
    )


@pytest.fixture(scope="module")
def left_out(files, tmp_path_factory):
    """The workdir and the state of a run that leaves out batch 2 and the first of 2."""
    workdir = tmp_path_factory.mktemp("left_out")
    skipped = ((2, 3), (N_KD, N_KD + 1))
    return workdir, run(files, workdir, (2, N_KD), skip_batches=skipped, guard=GUARD)


@pytest.mark.slow
def test_a_dropped_update_changes_what_leaving_out_its_batch_does(
    files, left_out, tmp_path
):
    state = run(files, tmp_path, (2, N_KD), guard=GUARD)
    assert_same(
        *(dataclasses.replace(x, guard=None) for x in (state, left_out[1])),
    )
    for workdir in (tmp_path, left_out[0]):
        records = read_metrics(workdir)
        assert [r["step"] for r in records] == list(range(1, TOTAL_STEPS + 1))
        counts = [r["skipped_updates"] for r in records]
        assert counts == [0, 0, 1, 1, 2, 2, 2]
        assert [r["step"] for r in records if "loss" not in r] == [3, N_KD + 1]
    assert int(state.guard.dropped) == 2


@pytest.mark.slow
def test_schedules_go_on_and_moments_do_not_where_there_is_no_update(left_out):
    adam, descent = (left_out[1].opt_state[i] for i in (1, 2))
    assert int(left_out[1].step) == int(descent.step) == TOTAL_STEPS
    assert int(adam.count) == TOTAL_STEPS - 2


@pytest.mark.slow
def test_a_guarded_run_that_was_stopped_ends_bit_for_bit(files, tmp_path):
    unbroken = run(files, tmp_path / "unbroken", (1, N_KD), guard=GUARD)
    with pytest.raises(StopError):
        run(files, tmp_path / "stopped", (1, N_KD), guard=GUARD, stop_at=5)
    state = run(files, tmp_path / "stopped", (1, N_KD), guard=GUARD)
    assert_same(state, unbroken)
    named = ("step", "loss", "skipped_updates")
    first, second = (
        [[r.get(name) for name in named] for r in read_metrics(tmp_path / x)]
        for x in ("unbroken", "stopped")
    )
    assert first == second


@pytest.mark.slow
def test_a_guard_that_drops_nothing_changes_nothing(files, tmp_path):
    guarded = run(files, tmp_path / "guarded", guard=GUARD)
    assert_close(guarded, run(files, tmp_path / "plain"))


@pytest.mark.slow
def test_the_message_of_a_bad_batch_says_what_gets_past_it(files, tmp_path, caplog):
    expected = run(files, tmp_path / "expected", skip_batches=((3, 4),))
    with pytest.raises(FloatingPointError, match="step 4 ") as stop:
        run(files, tmp_path / "bad", (3,))
    override = re.search(r'--gin\.(\S+?)="(.*?)"', str(stop.value))
    assert override[1] == "config.Experiment.skip_batches"
    with caplog.at_level(logging.INFO, logger="absl"):
        state = run(files, tmp_path / "bad", (3,), skip_batches=eval(override[2]))
    assert_same(state, expected)
    assert any("batch 3 is left out" in x.getMessage() for x in caplog.records)


@pytest.mark.slow
def test_batches_that_were_read_can_no_longer_be_left_out(files, tmp_path):
    with pytest.raises(StopError):
        run(files, tmp_path, stop_at=5, skip_batches=((1, 2),))
    for ranges in ((), ((1, 2), (3, 4)), ((0, 2),)):
        with pytest.raises(ValueError, match=r"\(1, 2\).* first 4 .*batch 4"):
            run(files, tmp_path, skip_batches=ranges)
    state = run(files, tmp_path, (4,), skip_batches=((1, 2), (4, 5)))
    whole = run(files, tmp_path / "whole", skip_batches=((1, 2), (4, 5)))
    assert_same(state, whole)


@pytest.mark.slow
def test_a_guard_is_added_and_removed_where_a_run_resumes(files, tmp_path):
    with pytest.raises(FloatingPointError, match="step 4 "):
        run(files, tmp_path, (3, 5))
    with pytest.raises(ValueError, match="--accept_change=guard"):
        run(files, tmp_path, (3, 5), guard=GUARD)
    with pytest.raises(StopError):
        run(files, tmp_path, (3, 5), guard=GUARD, accepted=["guard"], stop_at=5)
    wider = dataclasses.replace(GUARD, window=6)
    with pytest.raises(FloatingPointError, match="step 6 "):
        run(files, tmp_path, (3, 5), accepted=["guard"])
    state = run(
        files, tmp_path, (3, 5), guard=wider, accepted=["guard", "guard.window"]
    )
    assert int(state.guard.dropped) == 1
    expected = run(files, tmp_path / "x", skip_batches=((3, 4), (5, 6)))
    assert_close(state, expected)


@pytest.mark.slow
def test_logits_of_the_teacher_that_are_not_finite_are_said_to_be_the_teachers(
    files, tmp_path
):
    found = LoadedModel.open(files / "teacher")
    # Finite numbers, as loading demands, whose products are not.
    scale = jax.numpy.full_like(found.params["params"]["final_norm"]["scale"], 3e38)
    write_export(
        tmp_path / "teacher",
        {"params": found.params["params"] | {"final_norm": {"scale": scale}}},
        model=found.model.config,
        vocabulary=Export.open(files / "teacher").vocabulary_path,
        provenance={},
        dtype="float32",
        seq_len=runs.SEQ_LEN,
    )
    distill, *others = runs.experiment(files).stages
    distillation = dataclasses.replace(
        distill.distillation, teacher_export=str(tmp_path / "teacher")
    )
    distill = dataclasses.replace(distill, distillation=distillation)
    said = r"step 1 .*teacher's logits.* ce=8\.\d+, teacher_ce=nan"
    with pytest.raises(FloatingPointError, match=said):
        run(files, tmp_path / "run", stages=(distill, *others))
