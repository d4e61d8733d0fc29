import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from salt_jax.lab import markers
from salt_jax.main import main
from salt_jax.telemetry.metric_writer import read_metrics

LAB = """
from __gin__ import dynamic_registration
from salt_jax.lab import values as lab

lab.Lab:
  name = 'whole'
  root = '{root}'
  seeds = (3,)
  reference = 'baseline'
  arms = (@baseline/lab.Arm(), @salt/lab.Arm())
  small_models = (@slm/lab.SmallModel(),)
  scores = (@lab.Scores(),)
  measures = ()
  step_times = None

baseline/lab.Arm:
  name = 'baseline'
  gin_files = '{files}/baseline.gin'
salt/lab.Arm:
  name = 'salt'
  gin_files = '{files}/salt.gin'
  bindings = ("TEACHER='{{slm}}/export'", "SCORES='{{scores}}/scores'")
slm/lab.SmallModel:
  name = 'slm'
  gin_files = '{files}/slm.gin'
lab.Scores:
  name = 'scores'
  gin_files = '{files}/score.gin'
  bindings = "SCORER='{{slm}}/export-2'"
"""


@pytest.fixture
def lab(files, tmp_path, monkeypatch):
    """Returns the option that names a laboratory, and its root."""
    path, root = tmp_path / "lab_whole.gin", tmp_path / "root"
    path.write_text(LAB.format(files=files, root=root))
    return f"--gin_file={path}", root


def listed(capsys, *arguments):
    """Returns the commands that --list prints, by name."""
    capsys.readouterr()
    assert main(["lab", *arguments, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[1] for line in lines[::2]]
    commands = [shlex.split(line) for line in lines[1::2]]
    assert {command[0] for command in commands} == {"salt_jax"}
    return {name: command[1:] for name, command in zip(names, commands, strict=True)}


def test_a_list_runs_and_writes_nothing_and_only_takes_what_is_needed(lab, capsys):
    named, root = lab
    nodes = listed(capsys, named)
    assert list(nodes) == [
        *("baseline/seed-3/run", "slm/seed-3/run", "slm/seed-3/export"),
        *("slm/seed-3/export-2", "scores/seed-3/scores", "salt/seed-3/run"),
    ]
    few = listed(capsys, named, "--only=slm/*/export")
    assert list(few) == ["slm/seed-3/run", "slm/seed-3/export"]
    assert not root.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--only=salt", ["--only=salt", "6 commands"]),
        ("--jobs=0", ["0 is not positive"]),
        ("--report --brief", ["--brief", "--into"]),
        ("--into=page.md --list", ["--into=page.md", "--list"]),
        ("--into=page.md --only=salt/*", ["--into=page.md", "--only"]),
        ("--gin.lab.Lab.reference='salty'", ["'salty'", "baseline, salt"]),
    ],
)
def test_what_cannot_be_run_is_refused(option, said, lab, refused):
    line = refused("lab", lab[0], *option.split())
    assert all(each in line for each in said), line


def test_other_commands_do_not_take_a_lab(lab, refused):
    assert "binds Lab, which can lab or describe" in refused("train", lab[0])


def test_a_lab_is_described(lab, capsys):
    assert main(["describe", lab[0]]) == 0
    out = capsys.readouterr().out
    for said in ("whole", "salt.gin", "TEACHER='{slm}/export'", "SEED=100{seed}"):
        assert said in out


@pytest.mark.slow
def test_a_lab_that_is_stopped_goes_on_to_what_its_list_makes(lab, tmp_path, capsys):
    named, root = lab
    command = [sys.executable, "-m", "salt_jax.main", named]  # Lab runs unnamed.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        while not first.stdout.readline().startswith("[2/"):
            pass
        first.send_signal(signal.SIGTERM)
        rest = first.communicate()[0]
    assert first.returncode == 75, rest
    assert "1 complete, 0 of them before, stopped" in rest
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 6 commands 6 complete, 1 of them before" in done.stdout
    for name, argv in listed(capsys, named).items():
        marker = json.loads(markers.path_of(str(root), name).read_text())
        assert marker["argv"] == argv

    other = tmp_path / "other"
    for argv in listed(capsys, named, f"--gin.lab.Lab.root='{other}'").values():
        assert main(argv) == 0
    for arm in ("baseline", "salt"):
        made, expected = (
            [
                (r["step"], r["loss"])
                for r in read_metrics(x / arm / "seed-3/run")
                if "loss" in r
            ]
            for x in (root, other)
        )
        assert made == expected and len(made) == 6
    assert os.listdir(root / "reports/whole")
