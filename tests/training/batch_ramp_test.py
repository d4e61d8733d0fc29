"""Batches that grow while a run is trained, killed, resumed and looked at."""

import dataclasses

import jax
import numpy as np
import pytest

from salt_jax import config
from salt_jax.compiling.programs import of_experiment
from salt_jax.data.reading.batch_sizes import Ramp
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.compiled_updates import lower_update, update_name
from salt_jax.training.description import describe
from salt_jax.training.program import Program
from salt_jax.training.saved_steps import save_compiled
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.step_costs import cost_of, pieces_of
from tests.runs import RAMP, TOTAL_STEPS, assert_same, ramped, train_until
from tests.training.run_directory_test import Rows

ROWS = 3 * 4 + 2 * 8 + 2 * 16


@pytest.mark.slow
def test_over_a_ramp_each_row_is_read_once_also_if_the_run_is_killed(files, tmp_path):
    rows = Rows()
    unbroken = train(ramped(files), tmp_path / "unbroken", open_batches=rows)
    assert rows.read == list(range(ROWS))
    records = read_metrics(tmp_path / "unbroken")
    tokens = [16 * n for n in (4, 8, 12, 20, 28, 44, 60)]
    assert [r["tokens"] for r in records] == tokens
    # Saved after step 3, where the size changes, and killed after step 4.
    run = ramped(files, save_every=3)
    train_until(4, run, tmp_path / "killed")
    rows = Rows()
    resumed = train(run, tmp_path / "killed", open_batches=rows)
    assert rows.read == list(range(12, ROWS))
    assert_same(resumed.params, unbroken.params)
    assert [r["tokens"] for r in read_metrics(tmp_path / "killed")] == tokens


@pytest.mark.slow
@pytest.mark.usefixtures("without_cache")
def test_saved_steps_of_a_ramp_train_as_compiled_ones_do(files, tmp_path):
    run = ramped(files)
    program = Program.on(run)
    updates = [(s, rows) for s in run.stages for rows in run.sizes_of(s.name)]
    names = ["distill.4", "distill.8", "standard.8", "standard.16"]
    assert [update_name(program, *each) for each in updates] == names
    planned = of_experiment(program)
    assert [one.name for one in planned] == [*names, "init", "evaluation"]
    assert [one.num_losses for one in planned[:4]] == [1, 1, 1, 2]
    assert [one.tokens for one in planned[:4]] == [64, 128, 128, 256]
    steps = {update_name(program, *x): lower_update(program, *x) for x in updates}
    steps = {name: step.compile() for name, step in steps.items()}
    save_compiled(tmp_path / "steps", program, steps)
    loaded = train(run, tmp_path / "loaded", compiled=tmp_path / "steps")
    whole = train(dataclasses.replace(run, num_microbatches=1), tmp_path / "whole")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        loaded.params,
        whole.params,
    )


def test_each_size_has_to_divide_over_the_mesh():
    with pytest.raises(ValueError, match="batch_size=4 does not divide into 8 parts"):
        Program.on(ramped("x", mesh=MeshShape()))


def test_a_ramp_is_described_and_counted_by_its_sizes():
    run = ramped("x", skip_batches=((2, 4),))
    described = describe(run)
    assert described["batch_size"] == {
        "type": "Ramp",
        "sizes": [[0, 4], [3, 8], [5, 16]],
    }
    assert described["total"]["tokens"] == 16 * (ROWS - 4 - 8)
    assert [stage["tokens"] for stage in described["stages"]] == [16 * 8, 16 * 40]


def test_a_size_that_no_step_reads_changes_no_cost_and_no_check(files):
    longer = Ramp(sizes=(*RAMP.sizes, (TOTAL_STEPS, 999)))
    run, plain = ramped(files, batch_size=longer), ramped(files)
    for rows in (4, 8, 16):
        found, expected = (
            cost_of(of, of["stages"][1], rows)
            for of in map(config.as_json, (run, plain))
        )
        assert found == expected
        assert found["num_microbatches"] == run.microbatches(rows)
    loader = StageInputs.open(Program.on(run), run.stages[1]).loader
    assert len(loader.row_numbers(TOTAL_STEPS - 1)) == 16


def test_steps_of_each_size_have_a_cost_of_their_own():
    runs = (ramped("x", batch_size=x, num_microbatches=1) for x in (8, RAMP))
    whole, ramp = map(config.as_json, runs)
    stage = ramp["stages"][1]
    assert pieces_of(ramp, 4, 7) == [(4, 5, 8), (5, 7, 16)]
    assert pieces_of(whole, 4, 7) == [(4, 7, 8)]
    assert cost_of(ramp, stage, 8) == cost_of(whole, stage)
    assert cost_of(ramp, stage, 16) == cost_of(ramp, stage) != cost_of(whole, stage)
