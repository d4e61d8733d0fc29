import dataclasses
import logging

import jax
import numpy as np
import pytest

from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from tests.runs import TOTAL_STEPS, experiment


@pytest.mark.slow
def test_a_run_goes_back_loses_nothing_and_does_so_once(files, tmp_path, caplog):
    run = experiment(files, save_every=2, max_to_keep=9)
    end = train(run, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = dataclasses.replace(run, save_every=1)
    with caplog.at_level(logging.INFO, logger="absl"):
        found = train(again, tmp_path, restore_step=4)
    jax.tree.map(np.testing.assert_array_equal, found, end)
    aside = tmp_path / "set_aside" / "after_step_4"
    assert f"of steps 6, 7, and a copy of the metrics, are kept in {aside}" in (
        caplog.text
    )
    assert SavedCheckpoints.of(aside / "checkpoints").all_steps() == [6, 7]
    assert (aside / "metrics.jsonl").read_text() == before
    saved = SavedCheckpoints.of(tmp_path / "checkpoints")
    assert saved.all_steps() == [2, 4, 5, 6, TOTAL_STEPS]
    steps = [record["step"] for record in read_metrics(tmp_path) if "loss" in record]
    assert steps == list(range(1, TOTAL_STEPS + 1))
    # The scheduler repeats the command.
    with caplog.at_level(logging.INFO, logger="absl"):
        train(again, tmp_path, restore_step=4)
    assert "went back to step 4 before, and goes on from step 7" in caplog.text
    assert [x.name for x in aside.parent.iterdir()] == ["after_step_4"]


def test_going_back_to_what_was_not_saved_is_refused(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint of step 4 .* none"):
        train(experiment(files), tmp_path, restore_step=4)
