"""Gates and padded vocabularies in whole steps and runs."""

import dataclasses

import jax
import numpy as np
import pytest

from salt_jax.loss.gates import EveryToken, WhereTeacherLeads, WhereTeacherRanks
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from tests import runs
from tests.examples import on_mesh, packed_batch, partitioning
from tests.training.train_step_test import assert_close, stage, two_steps


@pytest.fixture(scope="module")
def files(files):
    """The files of a run, and its teacher once more with eight rows of padding."""
    runs.make_padded_teacher(files)
    return files


def metrics_of(files, workdir, **distillation):
    """Trains two steps on eight devices in microbatches; returns the records."""
    experiment = runs.experiment(files, validation=None, num_microbatches=2)
    first = experiment.stages[0]
    changed = dataclasses.replace(first.distillation, **distillation)
    first = dataclasses.replace(first, end_step=2, distillation=changed)
    train(dataclasses.replace(experiment, stages=(first,)), workdir)
    return read_metrics(workdir)


@pytest.mark.slow
def test_a_teacher_with_masked_padding_teaches_as_one_without(files, tmp_path):
    tokens = WhereTeacherRanks(k=400)
    expected = metrics_of(files, tmp_path / "bare", tokens=tokens)
    padded = runs.padded_teacher(files)
    found = metrics_of(files, tmp_path / "padded", tokens=tokens, **padded)
    for name in ("loss", "kd", "kl", "teacher_ce", "agreement", "distilled"):
        for one, other in zip(found, expected, strict=True):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    assert 0.0 < expected[0]["distilled"] < 1.0
    with pytest.raises(ValueError, match=r"real_vocab_size=4095.* has 4096 tokens"):
        metrics_of(files, tmp_path / "x", **padded | {"real_vocab_size": 4095})
    assert "distilled" not in metrics_of(files, tmp_path / "every")[-1]


@pytest.mark.slow
@pytest.mark.parametrize("gate", [WhereTeacherRanks(k=20), WhereTeacherLeads()])
def test_microbatches_on_a_mesh_update_as_one_device_under_a_gate(gate):
    batch = packed_batch(rows=16)
    expected = two_steps(*stage(gate=gate), batch)
    mesh = partitioning(8, model=2, replica=2)
    arguments = stage(mesh, gate=gate, num_microbatches=2)
    found = two_steps(*arguments, on_mesh(batch, mesh))
    assert_close(found[1:], expected[1:], atol=2e-4)
    assert_close(found[0].params, expected[0].params, atol=2e-4)
    assert 0.1 < float(found[1]["distilled"].mean()) < 0.9


def test_a_gate_changes_the_update_and_says_how_many_targets_it_distils():
    batch = packed_batch(rows=8)
    every = two_steps(*stage(gate=EveryToken()), batch)
    gated = two_steps(*stage(gate=WhereTeacherRanks(k=20)), batch)
    share = float(gated[1]["distilled"].mean())
    assert 0.1 < share < 0.6  # Of 64 tokens.
    assert "distilled" not in every[1]
    apart = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), every[0].params, gated[0].params
    )
    assert max(jax.tree.leaves(apart)) > 1e-3
