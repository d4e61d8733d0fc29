"""The check of an accelerator, on the CPU with small sizes, and with faults."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from salt_jax.checkup import (
    attention_cases,
    attention_checks,
    checkup,
    device_rates,
    environment,
    page,
    plan,
)
from salt_jax.checkup.sizes import SMALL
from salt_jax.checkup.values import Check, Device, Setting
from salt_jax.files.records import read_record
from salt_jax.main import main

ROOT = pathlib.Path(__file__).parents[2]
ONE_DEVICE = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")}


def check(name, *, seconds=60, **options):
    function = f"tests.checkup.faulty:{name}"
    return Check(
        name=name, title=f"Is {name}", function=function, seconds=seconds, **options
    )


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Runs the command on checks of `faulty`: its exit code, its record, its page."""

    def run(*checks, device="tpu", **options):
        monkeypatch.setattr(checkup, "DEVICE", check(device))
        monkeypatch.setattr(plan, "CHECKS", checks)
        words = [f"--{name}={value}" for name, value in options.items()]
        code = main(["check", f"--output={tmp_path}/out", *words])
        written = read_record(f"{tmp_path}/out/check.json", dict, remedy="")
        return code, written, (tmp_path / "out/check.html").read_text()

    return run


def states(written):
    return {result["name"]: result["state"] for result in written["checks"][1:]}


@pytest.mark.slow
def test_every_check_passes_on_this_cpu_and_is_on_the_page(tmp_path):
    done = subprocess.run(
        ["bash", "launch/check_accelerator.sh", "--small", f"--output={tmp_path}"],
        cwd=ROOT,
        env=os.environ | ONE_DEVICE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = read_record(tmp_path / "check.json", dict, remedy="")
    assert written["passed"] and written["finished"] and not written["waiting"]
    names = [each.name for each in plan.CHECKS]
    assert states(written) == dict.fromkeys(names, "passed")
    html = (tmp_path / "check.html").read_text()
    for result in written["checks"]:
        assert result["title"] in html
        for line in result["lines"]:
            assert line["what"].replace("'", "&#x27;") in html
    assert written["device"] == {"platform": "cpu", "kind": "cpu", "count": 1}
    found = {line["what"]: line for x in written["checks"] for line in x["lines"]}
    kernels = {what.partition(":")[0] for what in found if ": causal" in what}
    assert {"xla", "splash", "cudnn"} <= kernels
    assert set(page.FIRST_FIGURES) <= set(found)
    killed = found["the run was killed in its middle"]["measured"]
    assert killed.startswith("exit code -9, checkpoints of steps 8")
    assert 1 < found["stage one / plain, FLOPs"]["measured"] < 1.5


@pytest.mark.slow
def test_heads_over_two_chips_and_the_sum_over_devices_are_checked(
    tmp_path, monkeypatch
):
    name = "heads over two chips, packed"
    case = attention_cases.cases(SMALL)[name]
    monkeypatch.setattr(attention_checks, "cases", lambda sizes: {name: case})
    device = Device(platform="cpu", kind="cpu", count=8)
    setting = Setting(folder=tmp_path, small=True, device=device)
    lines = list(attention_checks.attention(setting))
    verdicts = {line.what: line.verdict for line in lines}
    assert verdicts[f"xla: {name}, gradient by projections, scale"] == "passed"
    assert not {"failed"} & set(verdicts.values())
    lines = list(device_rates.device(setting))
    assert any("sent by each device" in line.what for line in lines)


def test_a_failed_line_fails_its_check_and_the_command_and_is_named(checked):
    code, written, html = checked(check("right"), check("wrong"), check("not_a_number"))
    assert code == 1 and not written["passed"]
    assert states(written) == {
        "right": "passed",
        "wrong": "failed",
        "not_a_number": "failed",
    }
    assert "a value: 3, at most 2" in html and "so it was chosen" in html


def test_checks_that_crash_or_hang_cost_no_other(checked):
    code, written, html = checked(
        check("raises"),
        check("killed"),
        check("hangs", seconds=1.5),
        check("nothing"),
        check("right"),
    )
    assert code == 1
    assert states(written) == {
        "raises": "crashed",
        "killed": "crashed",
        "hangs": "timed out",
        "nothing": "failed",
        "right": "passed",
    }
    why = {result["name"]: result["why"] for result in written["checks"]}
    assert "ValueError: out of patience" in why["raises"]
    assert "-9" in why["killed"] and "the last words" in why["killed"]
    for result in written["checks"][1:4]:  # What was measured until then.
        assert [line["what"] for line in result["lines"]] == ["until then"]
    assert "out of patience" in html


def test_what_is_not_reached_in_time_or_lacks_files_is_said(checked):
    code, written, _ = checked(
        check("raises"), check("right", needs=("raises",)), check("hangs"), seconds=6
    )
    assert code == 1
    assert states(written) == {
        "raises": "crashed",
        "right": "not reached",
        "hangs": "timed out",
    }
    assert "'raises'" in written["checks"][2]["why"]


def test_without_a_device_nothing_else_is_tried(checked):
    code, written, html = checked(check("right"), device="no_device")
    assert code == 1
    assert written["waiting"] == ["right"]
    assert "the device is in use" in html


def test_a_machine_without_an_accelerator_is_refused_in_one_line(checked, capsys):
    code, written, _ = checked(check("right"), device="cpu")
    assert code == 2 and states(written) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert "--small" in line


def test_an_unknown_check_is_refused_and_files_bring_the_check_that_makes_them(capsys):
    assert main(["check", "--only=los"]) == 2
    assert "los: choose from loss, attention" in capsys.readouterr().err
    names = [each.name for each in plan.chosen(["saved_steps"])]
    assert names == ["files", "run", "saved_steps"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, what",
    [
        ("loss_of_an_oracle_off_by_one_percent", "values"),
        ("loss_of_an_oracle_off_by_one_percent", "gradient by embedding, scale"),
        ("attention_by_a_kernel_off_by_one_percent", "values, scale"),
    ],
)
def test_an_error_of_one_percent_is_noticed(name, what, tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, "DEVICE", check("cpu"))
    has_passed = checkup.check_accelerator(
        tmp_path, seconds=120, small=True, command="", checks=[check(name)]
    )
    assert not has_passed
    written = json.loads((tmp_path / "check.json").read_text())
    lines = written["checks"][1]["lines"]
    failed = [line["what"] for line in lines if line["verdict"] == "failed"]
    assert any(each.endswith(what) for each in failed)
    # What is not wrong is not blamed.
    assert not any("gradient by hidden states" in each for each in failed)


def test_no_process_outlives_the_one_that_checks(tmp_path):
    program = (
        "from pathlib import Path; from salt_jax.checkup import checkup as c;"
        "from tests.checkup.checkup_test import check; c.DEVICE = check('tpu');"
        f"c.check_accelerator(Path({str(tmp_path)!r}), seconds=60, small=True,"
        "command='', checks=[check('hangs')])"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.05)


def test_a_host_of_a_pod_is_given_its_own_chips(tmp_path, monkeypatch):
    pod = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "OTHER": "kept"}
    chips = [f"/dev/accel{i}" for i in range(4)]
    monkeypatch.setattr(environment.glob, "glob", lambda pattern: chips)
    variables, host = environment.environment_for(tmp_path, pod)
    assert "one host of 2" in host
    assert variables["TPU_PROCESS_BOUNDS"] == "1,1,1"
    assert variables["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1"
    assert variables["TPU_VISIBLE_DEVICES"] == "0,1,2,3"
    assert variables["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert variables["OTHER"] == "kept"
    alone, host = environment.environment_for(
        tmp_path, pod | {"TPU_WORKER_HOSTNAMES": "a"} | {"TPU_WORKER_ID": "0"}
    )
    assert host == "one host" and "TPU_PROCESS_BOUNDS" not in alone
    chips.pop()
    with pytest.raises(ValueError, match="3 chips"):
        environment.environment_for(tmp_path, pod)
