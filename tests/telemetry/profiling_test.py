"""A trace of some steps, of runs that go well and of runs that do not."""

import contextlib
import os
import re
import signal

import jax
import pytest
from etils import epath
from jax.profiler import ProfileData

from salt_jax.telemetry.profiling import TracedSteps, Tracer
from salt_jax.train import train
from salt_jax.training.stop_signals import PreemptedError
from tests.runs import N_KD, TOTAL_STEPS, experiment, open_then


def traced_events(folder):
    """The events of the one trace in `folder`, each with what is noted of it."""
    (path,) = folder.rglob("*.xplane.pb")
    return [
        (event.name, dict(event.stats))
        for plane in ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]


def traced_steps(folder):
    return [
        noted["step_num"] for name, noted in traced_events(folder) if name == "train"
    ]


@pytest.mark.slow
def test_the_steps_that_were_asked_for_are_traced_across_the_transition(
    files, tmp_path
):
    train(experiment(files), tmp_path, traced=TracedSteps(start=N_KD - 1, count=2))
    assert traced_steps(tmp_path / "profile") == [N_KD, N_KD + 1]
    # The same on every host, whatever its clock says.
    (session,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert session.name == "steps_4_to_5"
    computed = {x["hlo_module"] for _, x in traced_events(session) if "hlo_module" in x}
    assert computed, "The trace has the steps, but not what the devices did in them."


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fail():
    raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize(
    "end, raised", [(terminate, PreemptedError), (fail, InterruptedError)]
)
def test_a_trace_that_is_cut_short_can_be_read_and_the_next_one_taken(
    end, raised, files, tmp_path
):
    with pytest.raises(raised):
        train(
            experiment(files),
            tmp_path / "run",
            traced=TracedSteps(start=1, count=5),
            open_batches=open_then(2, end),
        )
    assert traced_steps(tmp_path / "run" / "profile") == [2, 3]
    with Tracer(
        TracedSteps(start=0, count=1),
        epath.Path(tmp_path / "next"),
        pausing=contextlib.nullcontext,
    ) as tracer:
        with tracer.step(1):
            pass
        assert traced_steps(tmp_path / "next") == [1]


@pytest.fixture
def told(monkeypatch):
    """What happens, in order."""
    told = []
    say = lambda what: lambda *_, **__: told.append(what)
    monkeypatch.setattr(jax.profiler, "start_trace", say("begin"))
    monkeypatch.setattr(jax.profiler, "stop_trace", say("end"))
    return told


def tracer(told, **steps):
    @contextlib.contextmanager
    def pausing():
        told.append("wait")
        yield
        told.append("go on")

    return Tracer(TracedSteps(**steps), epath.Path("/nowhere"), pausing=pausing)


def test_a_trace_begins_and_ends_when_the_steps_before_are_over(told):
    with tracer(told, start=1, count=2) as tracing:
        for step in range(1, 5):
            with tracing.step(step):
                told.append(step)
    assert told == [
        1,
        *("wait", "begin", "go on", 2, 3, "wait", "end", "go on"),
        4,
    ]  # fmt: skip


def test_what_ended_a_run_is_raised_though_its_trace_cannot_be_written(
    told, monkeypatch, caplog
):
    def full():
        raise OSError("The disk is full.")

    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    with (
        pytest.raises(InterruptedError),
        tracer(told, start=0, count=2) as tracing,
        tracing.step(1),
    ):
        raise InterruptedError
    assert "The trace in /nowhere could not be written: The disk is full." in (
        caplog.messages
    )


def test_a_run_that_is_not_traced_neither_waits_nor_begins(told):
    pausing = lambda: pytest.fail("It waits.")
    with Tracer(None, epath.Path("/nowhere"), pausing=pausing) as tracing:
        for step in 1, 2:
            with tracing.step(step):
                told.append(step)
    assert told == [1, 2]


@pytest.mark.parametrize(
    "text", ["", "5", "5:", "a:1", "1:2:3", "1.5:2", "1, 2", "٣:1"]
)
def test_what_is_not_two_numbers_is_refused(text):
    with pytest.raises(
        ValueError, match=re.escape(f"--profile={text} is not START:COUNT")
    ):
        TracedSteps.parse(text)


@pytest.mark.parametrize("text", ["-1:5", "3:0", "3:-1"])
def test_steps_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match=f"{text}: START .* 0 .*COUNT .* 1"):
        TracedSteps.parse(text)


def test_start_and_count_are_told_apart():
    assert TracedSteps.parse("100:5") == TracedSteps(start=100, count=5)


@pytest.mark.parametrize(
    "start, count, said",
    [
        (3, 2, "--profile=3:2 .* 4 to 5, .* 5 to 7"),
        (7, 1, "--profile=7:1 .* 8 to 8, .* 5 to 7"),
        (5, 3, "--profile=5:3 .* 6 to 8, .* 5 to 7"),
    ],
)
def test_steps_that_a_run_will_not_make_are_refused(start, count, said):
    with pytest.raises(ValueError, match=said):
        TracedSteps(start=start, count=count).check(from_step=4, total_steps=7)


def test_a_run_that_is_restarted_past_the_steps_goes_on_without_a_trace():
    steps = TracedSteps(start=3, count=2)
    assert steps.still_ahead(3, total_steps=7) == steps
    assert steps.still_ahead(4, total_steps=7) is None
    with pytest.raises(ValueError, match="--profile=3:2 .*complete at step 7"):
        steps.still_ahead(7, total_steps=7)


def test_a_run_that_is_complete_has_nothing_to_trace():
    with pytest.raises(ValueError, match="--profile=3:2 .*complete at step 7"):
        TracedSteps(start=3, count=2).check(from_step=7, total_steps=7)


@pytest.mark.parametrize("start, count", [(4, 1), (4, 3), (6, 1)])
def test_all_steps_that_a_run_will_make_can_be_traced(start, count):
    TracedSteps(start=start, count=count).check(from_step=4, total_steps=7)


def test_a_refusal_comes_before_anything_is_made(files, tmp_path):
    with pytest.raises(ValueError, match=r"--profile=7:2 .* 8 to 9, .* 1 to 7"):
        train(
            experiment(files),
            tmp_path / "run",
            traced=TracedSteps(start=TOTAL_STEPS, count=2),
        )
    assert not list(tmp_path.glob("run/experiment.json"))
