import dataclasses
import logging

import jax
import pytest
from etils import epath

from salt_jax.storage import checkpoint
from salt_jax.storage.checkpoint import Checkpointer, SaveError
from salt_jax.storage.retention import Retention
from salt_jax.training.saving import Saver
from tests.storage.checkpoint_test import made


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@dataclasses.dataclass
class Run:
    """Steps of a run whose state is the number of the step."""

    saved: Checkpointer
    saver: Saver
    clock: Clock

    def step(self, step, seconds=1.0):
        """Makes a step, saves if due; returns whether it was."""
        self.clock.now += seconds
        due = self.saver.is_due(step)
        if due:
            self.saver.save(step, made(step), {}, None)
        while self.saved.is_saving():
            self.saved._finishing.join()
        return due


@pytest.fixture
def open_run(tmp_path):
    opened = []

    def open_it(*, every=100, **options):
        clock = Clock()
        saved = Checkpointer(tmp_path, Retention(every=every, max_to_keep=9))
        opened.append(saved)
        saver = Saver(saved, clock=clock, sleep=clock.sleep, **options)
        return Run(saved.__enter__(), saver, clock)

    yield open_it
    for saved in opened:
        saved.__exit__(SaveError)


@pytest.fixture
def full(monkeypatch):
    """Makes every save fail once its arrays are written, until it is called."""

    def fail(self, step):
        raise OSError(28, "No space left: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "verify_index", fail)
        yield patch.undo


def test_a_save_is_due_by_steps_and_by_time(open_run):
    run = open_run(every=10, every_minutes=1.0)
    due = [step for step in range(1, 25) if run.step(step, seconds=25.0)]
    # A save by steps starts the minutes anew.
    assert due == [3, 6, 9, 10, 13, 16, 19, 20, 23]


def test_a_failed_save_is_noticed_at_the_next_step_and_made_again(
    open_run, full, caplog
):
    run = open_run(every=10)
    assert run.step(10)
    full()
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert run.step(11)
    assert "step 10 " in caplog.text and "after the next step" in caplog.text
    assert not any(map(run.step, range(12, 20)))
    assert run.saved.all_steps() == [10, 11] or run.saved.all_steps() == [11]


def test_a_run_ends_after_as_many_failures_as_it_has_retries(open_run, full):
    run = open_run(every=10, retry_after=(0.0, 10.0))
    assert run.step(10) and run.step(11)
    assert not run.step(12)
    assert run.step(13, seconds=10.0)
    with pytest.raises(SaveError, match="step 13 .*tried 3 times.*to resume"):
        run.step(14)


def test_a_save_that_works_forgives_those_that_failed(open_run, full):
    run = open_run(every=10, retry_after=(0.0,))
    assert run.step(10)
    full()
    assert run.step(11) and not run.step(12)
    assert run.saver._failures == 0


def test_the_last_save_waits_and_tries_again(open_run, full):
    run = open_run()
    sleep = run.clock.sleep

    def sleep_until_there_is_room(seconds):
        sleep(seconds)
        if len(run.clock.slept) == 2:
            full()

    run.saver._sleep = sleep_until_there_is_room
    run.saver.save_last(5, made(5), {}, None)
    assert run.clock.slept == [1.0, 5.0]
    assert run.saved.all_steps() == [5]


def test_what_cannot_be_saved_last_says_what_is(open_run, full):
    run = open_run()
    with pytest.raises(SaveError, match=r"step 5 .* step None .*tried 4 times"):
        run.saver.save_last(5, made(5), {}, None)
    assert len(run.clock.slept) == 3


def test_several_processes_do_not_save_twice_for_one_answer(open_run, monkeypatch):
    # The answer to a call is that of the call before, as between processes.
    run = open_run(every_minutes=1.0)
    answers = [(False, False)]

    def delayed(*flags):
        answers.append(flags)
        return answers[-2]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(run.saver._agreement, "any", delayed)
    monkeypatch.setattr(run.saved, "begin", lambda *args: True)
    due = [step for step in range(1, 12) if run.step(step, seconds=30.0)]
    assert due == [3, 6, 9]
    assert epath.Path(run.saved.directory).exists()
