"""Real runs of both stages that keep a moving average of the parameters."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from salt_jax import config
from salt_jax.evaluate import evaluate_run
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.export import export_run
from salt_jax.optim.moving_average import MovingAverage
from salt_jax.storage.checkpoint import Checkpointer
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.export import Export
from salt_jax.storage.retention import Retention
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training import resumption
from salt_jax.training.program import Program
from tests import runs
from tests.docs_test import documented
from tests.runs import TOTAL_STEPS, assert_same, train_until

DECAY = 0.6
AVERAGE = MovingAverage(decay=DECAY)


def experiment(files, **changes):
    return runs.experiment(files, **{"average": AVERAGE, "save_every": 1} | changes)


@pytest.fixture(scope="module")
def averaged(files, tmp_path_factory):
    """The workdir and the last state of a run that keeps an average."""
    workdir = tmp_path_factory.mktemp("averaged")
    return workdir, train(experiment(files), workdir)


@pytest.fixture(scope="module")
def program(files):
    return Program.on(experiment(files))


@pytest.mark.slow
def test_the_average_is_that_of_the_parameters_at_all_steps(averaged, program):
    workdir, state = averaged
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    like = program.abstract_state.params
    weights = DECAY ** np.arange(TOTAL_STEPS - 1, -1, -1.0)
    steps = [saved.restore_params(n, like) for n in range(1, TOTAL_STEPS + 1)]

    def mean(*params):
        return np.tensordot(weights / weights.sum(), np.stack(params), axes=1)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.average.params,
        jax.tree.map(mean, *steps),
    )


@pytest.mark.slow
def test_validations_have_the_loss_of_the_average_beside_that_of_the_parameters(
    averaged, program
):
    workdir, state = averaged
    last = [r for r in read_metrics(workdir) if "val_loss" in r][-1]
    measure = held_out_of(program).open()
    for name, params in (
        ("val_loss", state.params),
        ("val_loss_average", state.average.params),
    ):
        assert last[name] == measure(params)["val_loss"]
        assert name in documented("Training")
    assert last["val_loss"] != last["val_loss_average"]


@pytest.mark.slow
def test_an_export_of_the_average_is_the_average_and_evaluates_as_it(
    files, averaged, program, tmp_path
):
    workdir, state = averaged
    run, output = experiment(files), epath.Path(tmp_path / "out")
    export_run(run, epath.Path(workdir), output, average=True)
    export = Export.open(output)
    assert_same(export.load(program.abstract_state.params), state.average.params)
    assert export.provenance["average"]["decay"] == DECAY
    with pytest.raises(ValueError, match=r"Another export .*average=.*not None"):
        export_run(run, epath.Path(workdir), output)
    evaluate_run(run, epath.Path(workdir), average=True)
    evaluate_run(run, epath.Path(workdir), export=output)
    beside, of_export = (
        json.loads((workdir / f"evaluation{suffix}.json").read_text())["splits"]
        for suffix in ("_average", "")
    )
    assert beside == of_export


@pytest.mark.slow
def test_a_run_that_was_stopped_has_the_same_average_to_the_last_bit(
    files, averaged, tmp_path
):
    run = experiment(files, save_every=2)
    train_until(5, run, tmp_path)
    assert_same(train(run, tmp_path), averaged[1])


def saved_without(files, workdir):
    """Saves a state of the experiment without an average; returns where."""
    run = experiment(files, average=None)
    meta = {"experiment": config.as_json(run), "experiment_fingerprint": "of a test"}
    meta["experiment"].pop("average")  # As before there were averages.
    with Checkpointer(
        workdir / "checkpoints", Retention(every=1, max_to_keep=2)
    ) as saved:
        saved.save_now(3, Program.on(run).fresh_state(), meta | {"stage": "distill"})
    return SavedCheckpoints.of(workdir / "checkpoints")


@pytest.mark.slow
def test_an_average_that_a_run_did_not_have_begins_at_the_parameters(
    files, program, tmp_path
):
    saved = saved_without(files, tmp_path)
    meta, run = saved.read_meta(3), program.experiment
    resumption.check_experiment(experiment(files, average=None), meta, [])
    with pytest.raises(ValueError, match=r" average: .*--accept_change=average"):
        resumption.check_experiment(run, meta, [])
    state = resumption.restore(program, saved, meta, 3)
    assert_same(state.average.params, state.params)
    assert int(state.average.updates) == 0
    # Trees of their own: an update gives away the memory of both.
    trees = (state.params, state.average.params)
    arrays = [x.addressable_shards[0].data for x in jax.tree.leaves(trees)]
    places = {x.unsafe_buffer_pointer() for x in arrays}
    assert len(places) == len(arrays)
    for command in (
        lambda: evaluate_run(run, epath.Path(tmp_path), average=True),
        lambda: export_run(run, tmp_path, epath.Path(tmp_path / "x"), average=True),
    ):
        with pytest.raises(ValueError, match="Step 3 .*has no moving average"):
            command()


@pytest.mark.slow
def test_an_average_that_a_run_no_longer_has_is_dropped(files, averaged):
    saved = SavedCheckpoints.of(averaged[0] / "checkpoints")
    meta, without = saved.read_meta(5), experiment(files, average=None)
    with pytest.raises(ValueError, match=r" average: .*--accept_change=average"):
        resumption.check_experiment(without, meta, [])
    other = experiment(files, average=MovingAverage(decay=0.5))
    with pytest.raises(ValueError, match=r"average\.decay"):
        resumption.check_experiment(other, meta, [])
    assert resumption.restore(Program.on(without), saved, meta, 5).average is None


def test_the_memory_of_the_average_is_counted():
    held = Program.on(experiment("nowhere")).held_bytes()
    assert held["average"] == held["parameters"] + 4  # And the count of updates.
    without = Program.on(experiment("nowhere", average=None))
    assert without.held_bytes()["average"] == 0


def test_an_average_that_never_begins_is_refused():
    late = MovingAverage(decay=0.5, begin_step=TOTAL_STEPS)
    with pytest.raises(ValueError, match=f"after step {TOTAL_STEPS}"):
        experiment("nowhere", average=late)
