"""Two processes of four devices each do what one of eight does."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from salt_jax.data.scoring.score_bill import read_bill
from salt_jax.files.records import read_record
from salt_jax.main import main
from salt_jax.score import score
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.storage.export import Export
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from tests import command_files, runs, score_host
from tests.runs import TOTAL_STEPS, experiment
from tests.soak import kills

pytestmark = pytest.mark.slow


def on_two_hosts(arguments_of, *, exit_codes=(0, 0)):
    """Runs two processes, `arguments_of(port, index)`; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = os.environ["XLA_FLAGS"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # Of two flags of one name the last one counts.
        "XLA_FLAGS": f"{inherited} --xla_force_host_platform_device_count=4",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments_of(port, index))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        written = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert tuple(x.returncode for x in processes) == exit_codes, written
    return [output for output, _ in written]


def train_on_two_hosts(files, workdir, *, stop_at=-1, experiment="experiment"):
    return on_two_hosts(
        lambda port, index: (
            ["-m", "tests.multihost", port, index, files, workdir, stop_at, experiment]
        )
    )


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory):
    return train(experiment(files), tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def stopped(files, tmp_path_factory):
    """The workdir of a run of which one host got SIGTERM, and what was printed."""
    workdir = tmp_path_factory.mktemp("stopped")
    return workdir, train_on_two_hosts(files, workdir, stop_at=2)


def assert_same_run(actual, expected):
    # The hosts add up gradients in another order than one process does.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6),
        actual,
        expected,
    )


def test_all_hosts_stop_at_one_step_when_one_is_asked_to(stopped):
    workdir, printed = stopped
    (step,) = {re.search(r"at step (\d+), and saved", text)[1] for text in printed}
    assert 3 <= int(step) < TOTAL_STEPS
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    assert saved.latest_step() == int(step)


def test_two_hosts_go_on_and_end_where_one_process_does(
    files, stopped, unbroken, tmp_path
):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    train_on_two_hosts(files, workdir)
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    state = saved.restore(TOTAL_STEPS, Program.on(experiment(files)).abstract_state)
    assert_same_run(state, unbroken)
    steps = [record["step"] for record in read_metrics(workdir) if "loss" in record]
    assert steps == list(range(1, TOTAL_STEPS + 1))


def test_one_process_goes_on_from_what_two_hosts_saved(
    files, stopped, unbroken, tmp_path
):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    assert_same_run(train(experiment(files), workdir), unbroken)


def test_two_hosts_decide_the_same_after_one_was_killed(adaptive, files, tmp_path):
    def arguments(port, index, at):
        return ["-m", "tests.multihost", port, index, files, tmp_path, at, "adaptive"]

    killed = (75, -signal.SIGKILL)
    on_two_hosts(lambda p, i: arguments(p, i, runs.LEFT_AT), exit_codes=killed)
    on_two_hosts(lambda p, i: arguments(p, i, -1))
    assert kills.facts(tmp_path) == kills.facts(adaptive)
    states = [
        SavedCheckpoints.of(workdir / "checkpoints").record(TOTAL_STEPS).arrays
        for workdir in (tmp_path, adaptive)
    ]
    assert states[0] == states[1]


@pytest.fixture(scope="module")
def adaptive(files, tmp_path_factory):
    """The workdir of an adaptive run on two hosts that nothing happened to."""
    workdir = tmp_path_factory.mktemp("adaptive")
    printed = on_two_hosts(
        lambda port, index: (
            ["-m", "tests.multihost", port, index, files, workdir, -1, "adaptive"]
        )
    )
    assert all("{'index': 0.1}" in text for text in printed)
    return workdir


def test_what_process_0_measured_decides_for_a_process_that_measured_otherwise(
    adaptive,
):
    found = {r["step"]: r for r in read_metrics(adaptive) if "val_loss" in r}
    (left,) = [r for r in found.values() if "left_stage" in r]
    leads = [found[i]["val_loss"] - found[i]["val_teacher_loss"] for i in (2, 3)]
    assert (left["step"], left["leave_lead"]) == (runs.LEFT_AT, max(leads))


COMMANDS = """
import sys
from salt_jax.files.records import read_record
from salt_jax.main import main

folder, out, *distributed = sys.argv[1:]
slm = [f"--gin_file={folder}/slm.gin", f"--workdir={out}/slm"]
score = [f"--gin_file={folder}/score.gin", f"--gin.SCORER='{out}/export'"]
for command in (
    ["train", *slm, *distributed],
    ["evaluate", *slm],
    ["export", *slm, f"--output={out}/export"],
    ["score", *score, f"--gin.SCORES='{out}/scores'"],
    ["generate", f"--export={out}/export", "--prompt=the small", "--max_new_tokens=5"],
):
    assert main(command) == 0, command
"""


def test_each_command_gives_on_two_hosts_what_it_gives_on_one(
    tmp_path, monkeypatch, capsys
):
    command_files.write_files(tmp_path)
    assert main([f"--gin_file={tmp_path}/prepare.gin"]) == 0
    one, two = tmp_path / "one", tmp_path / "two"
    printed = on_two_hosts(
        lambda port, index: (
            ["-c", COMMANDS, tmp_path, two, f"--distributed=127.0.0.1:{port},2,{index}"]
        )
    )
    monkeypatch.setattr(sys, "argv", ["-", str(tmp_path), str(one)])
    capsys.readouterr()
    exec(COMMANDS, {})
    (written,) = [x for x in capsys.readouterr().out.splitlines() if x[:1] == "{"]
    assert written in printed[0] and written not in printed[1]
    assert "bits/byte" in printed[0] and "bits/byte" not in printed[1]
    assert_same_numbers(evaluation(one), evaluation(two))
    exports = [Export.open(out / "export") for out in (one, two)]
    assert exports[0].provenance["step"] == exports[1].provenance["step"] == 6
    # A shard that both have read is billed to both.
    assert read_bill(one / "scores").sequences == 329
    assert read_bill(two / "scores").sequences >= 329
    for shard in sorted((one / "scores").glob("*.npy")):
        rows = [np.load(out / "scores" / shard.name) for out in (one, two)]
        for name in rows[0].dtype.names:
            tolerance = 1e-3 if name == "loss_quantiles" else 1e-4
            np.testing.assert_allclose(rows[0][name], rows[1][name], rtol=tolerance)


def evaluation(out):
    path = out / "slm" / "evaluation.json"
    return read_record(path, dict, remedy="evaluate again")


def assert_same_numbers(first, second):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), first, second
    )


def score_on_two_hosts(files, output, hosts, *, knowing=True, exit_codes=(0, 0)):
    """Scores in two processes, of which `hosts` gives (delay, kill_at).

    Returns the shards that each has written and the sequences that each has read, in
    the order of how much that is.
    """

    def arguments(port, index):
        job = [f"{port},2,{index}"] if knowing else []
        return ["-m", "tests.score_host", files, output, *hosts[index], *job]

    on_two_hosts(arguments, exit_codes=exit_codes)
    return bills(output)


def bills(output):
    found = []
    for file in output.glob("bill-*.json"):
        records = json.loads(file.read_text())["entries"]
        shards = {x["shard"] for x in records} - {None}
        found.append((shards, sum(x["sequences"] for x in records)))
    return sorted(found, key=lambda bill: bill[1])


def shard_bytes(output):
    return {file.name: file.read_bytes() for file in sorted(output.glob("*.npy"))}


@pytest.fixture(scope="module")
def scored(files, tmp_path_factory):
    """The scores that one process makes, on as many devices."""
    output = tmp_path_factory.mktemp("scored")
    four = jax.devices()[:4]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "local_devices", lambda: four)
        scores = score(score_host.scoring(files, output))
    return scores


def assert_complete(output, scored):
    assert shard_bytes(output) == shard_bytes(scored.path)
    found = json.loads((output / "manifest.json").read_text())
    assert found["zero_shares"] == scored.manifest.zero_shares
    assert not list(output.glob("*.partial"))


EVEN = (0.25, -1)  # Slow enough for the other to begin in the meantime.
SHARDS = set(range(9))


@pytest.mark.parametrize("knowing", [True, False])
def test_two_hosts_share_the_shards_and_write_the_bytes_of_one(
    knowing, files, scored, tmp_path
):
    found = score_on_two_hosts(files, tmp_path, [EVEN, EVEN], knowing=knowing)
    (fewer, _), (more, _) = found
    assert fewer and more and fewer | more == SHARDS
    assert_complete(tmp_path, scored)


def test_a_slow_host_does_not_hold_up_the_other(files, scored, tmp_path):
    # It sleeps through the 3 s in which the other reads all.
    found = score_on_two_hosts(files, tmp_path, [(0.1, -1), (10.0, -1)])
    (slow, _), (fast, _) = found
    assert len(slow) <= 1 and len(fast) >= len(SHARDS) - 1
    assert_complete(tmp_path, scored)


def test_what_a_killed_host_has_left_the_other_makes(files, scored, tmp_path):
    found = score_on_two_hosts(
        files,
        tmp_path,
        [EVEN, (0.25, 3)],
        knowing=False,
        exit_codes=(0, -signal.SIGKILL),
    )
    assert found[-1][0] | found[0][0] == SHARDS
    assert_complete(tmp_path, scored)


def test_after_all_are_killed_only_what_is_missing_is_made(files, scored, tmp_path):
    dying = [(0.25, 5), (0.25, 5)]
    killed = (-signal.SIGKILL, -signal.SIGKILL)
    score_on_two_hosts(files, tmp_path, dying, knowing=False, exit_codes=killed)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    billed = read_bill(tmp_path).sequences
    assert 2 <= len(before) < len(SHARDS)
    score(score_host.scoring(files, tmp_path))
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    assert {name: after[name] for name in before} == before
    missing = score_host.COUNT - sum(len(np.load(tmp_path / name)) for name in before)
    assert read_bill(tmp_path).sequences == billed + missing
    assert after.keys() == shard_bytes(scored.path).keys()
