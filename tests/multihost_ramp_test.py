"""Batches that grow, trained by two processes that are stopped between two sizes."""

import json
import re

import pytest

from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from tests.multihost_test import assert_same_run, train_on_two_hosts
from tests.runs import RAMP, TOTAL_STEPS, ramped
from tests.soak import kills

pytestmark = pytest.mark.slow


def rows_of(printed):
    """Returns the numbers of the rows that each process has trained on."""
    return [json.loads(re.search(r"^rows (.*)$", x, re.M)[1]) for x in printed]


def numbers(workdir):
    return [
        {k: v for k, v in record.items() if not isinstance(v, str)}
        for record in kills.facts(workdir)
    ]


def test_two_hosts_stopped_at_a_change_of_size_end_where_one_process_does(
    files, tmp_path
):
    unbroken = train(ramped(files), tmp_path / "one")
    workdir = tmp_path / "two"
    # Asked to stop at batch 3, the first of 8 rows: between the checkpoints 2 and 4.
    printed = train_on_two_hosts(files, workdir, stop_at=3, experiment="ramped")
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    step, before = saved.latest_step(), rows_of(printed)
    assert 4 <= step < TOTAL_STEPS
    after = rows_of(train_on_two_hosts(files, workdir, experiment="ramped"))
    end = RAMP.rows(0, step)
    assert sorted(before[0] + before[1]) == list(range(end))
    assert sorted(after[0] + after[1]) == list(range(end, RAMP.rows(0, TOTAL_STEPS)))
    assert [len(rows) for rows in before] == [end // 2] * 2
    state = saved.restore(TOTAL_STEPS, Program.on(ramped(files)).abstract_state)
    assert_same_run(state, unbroken)
    assert_same_run(numbers(workdir), numbers(tmp_path / "one"))
    assert [r["step"] for r in read_metrics(workdir)] == list(range(1, TOTAL_STEPS + 1))
