import dataclasses
import shutil

import jax
import numpy as np
import pytest

from salt_jax.config import as_json
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.export import Export
from salt_jax.storage.starts import Stacked
from salt_jax.train import train
from salt_jax.training.program import Program
from tests import runs
from tests.runs import STUDENT

SMALL = dataclasses.replace(STUDENT, num_layers=1, scan_layers=False)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The export of a smaller model."""
    path = tmp_path_factory.mktemp("exports") / "small"
    runs.make_teacher(path, SMALL)
    return path


def open_for(start, **changes):
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    return start.open(dataclasses.replace(STUDENT, **changes), vocabulary)


def test_a_start_is_made_of_the_blocks_of_its_export(export):
    program = Program.on(
        runs.experiment("nowhere", initial_export=Stacked(export=str(export)))
    )
    state, small = program.fresh_state(), Export.open(export)
    assert program.initial.fingerprint == small.fingerprint
    like = Program.on(runs.experiment("nowhere", model=SMALL)).abstract_state.params
    params = small.load(like)["params"]
    made = state.params["params"]
    np.testing.assert_array_equal(made["embedding_VD"], params["embedding_VD"])
    for path, x in jax.tree_util.tree_leaves_with_path(params["layer_0"]):
        of = made["layers"][path[0].key][path[1].key]
        np.testing.assert_array_equal(of[0], x)
        is_output = path[1].key in ("out", "down")
        np.testing.assert_array_equal(of[1], 0.0 * x if is_output else x)


def test_what_does_not_fit_the_student_is_refused_by_name(export, tmp_path):
    start = Stacked(export=str(export))
    with pytest.raises(ValueError, match=rf"{export}: it has embed_dim=16, .* 24"):
        open_for(start, embed_dim=24)
    with pytest.raises(ValueError, match="1 layers, and the student 1"):
        open_for(start, num_layers=1)
    with pytest.raises(FileNotFoundError, match=f"No export at {tmp_path}/none"):
        open_for(Stacked(export=f"{tmp_path}/none"))
    other = tmp_path / "other.model"
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    other.write_bytes(vocabulary.add_control_pieces(["<one_more>"]))
    with pytest.raises(ValueError, match="Use one vocabulary file for both"):
        start.open(STUDENT, Vocabulary.open(str(other)))


@pytest.mark.parametrize("name", ["order", "outputs"])
def test_an_order_or_outputs_that_there_are_not_are_refused(name):
    with pytest.raises(ValueError, match=f"Stacked.{name}='both' is not one of"):
        Stacked(export="x", **{name: "both"})
    with pytest.raises(ValueError, match=r"initial_export .* got 3"):
        runs.experiment("nowhere", initial_export=3)


@pytest.mark.slow
def test_the_start_has_the_held_out_loss_of_the_smaller_model(files, export):
    def loss(**changes):
        program = Program.on(runs.experiment(files, **changes))
        measure = held_out_of(program).open()
        return measure(program.fresh_state().params)["val_loss"]

    expected = loss(model=SMALL, initial_export=str(export))
    start = Stacked(export=str(export))
    assert loss(initial_export=start) == pytest.approx(expected, rel=1e-7)
    copied = dataclasses.replace(start, outputs="copied")
    assert abs(loss(initial_export=copied) - expected) > 1e-3


@pytest.mark.slow
def test_a_run_knows_what_it_started_from_and_does_not_need_it_again(
    files, export, tmp_path
):
    path, workdir = tmp_path / "small", tmp_path / "run"
    shutil.copytree(export, path)
    run = runs.experiment(files, initial_export=Stacked(export=str(path)))

    runs.train_until(3, run, workdir)
    shutil.rmtree(path)
    train(run, workdir)
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    for step in (2, runs.TOTAL_STEPS):
        meta = saved.read_meta(step)
        found = meta["inputs"]["initial_export"]
        assert found == Export.open(export).fingerprint
        assert meta["experiment"]["initial_export"] == as_json(run.initial_export)
