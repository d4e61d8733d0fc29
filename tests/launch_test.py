"""The scripts, run with a stand-in for Python where they would install."""

import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"

# Makes a virtual environment whose python notes what it was asked, and may fail.
STAND_IN = """#!/bin/bash
if [[ $1 == -m ]]; then
  mkdir -p .venv/bin
  printf '#!/bin/bash\\necho "$*" >> asked; test ! -e pip_fails\\n' > .venv/bin/python
  chmod +x .venv/bin/python
fi
"""


@pytest.fixture
def root(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "setup.py").write_text("version = 1")
    (tmp_path / "stand_in").write_text(STAND_IN)
    (tmp_path / "stand_in").chmod(0o755)
    return tmp_path


def set_up(root, python="./stand_in", extra="EXTRA="):
    """Sources env.sh as the scripts do, and says what came of it."""
    script = f"set -euo pipefail; {extra}; source launch/env.sh; echo ready"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
    )


def installs(root):
    return (root / "asked").read_text().count("pip install")


def test_a_second_set_up_installs_nothing(root):
    assert "Installing" in set_up(root).stdout
    assert set_up(root).stdout == "ready\n"
    assert installs(root) == 1


def test_a_change_of_setup_py_installs_again(root):
    set_up(root)
    (root / "setup.py").write_text("version = 2")
    set_up(root)
    assert installs(root) == 2


def test_what_the_tests_need_is_enough_for_the_demo_and_not_the_reverse(root):
    set_up(root, extra="EXTRA=eval")
    assert installs(root) == 1
    set_up(root)
    assert installs(root) == 2
    set_up(root, extra="EXTRA=eval")
    assert installs(root) == 2
    assert "[eval]" in (root / "asked").read_text()


def test_a_folder_that_moved_installs_again(root):
    set_up(root)
    moved = root.rename(root.with_name(root.name + "_moved"))
    set_up(moved)
    assert installs(moved) == 2


def test_an_install_that_failed_is_not_taken_for_one(root):
    (root / "pip_fails").touch()
    assert set_up(root).returncode != 0
    (root / "pip_fails").unlink()
    assert set_up(root).returncode == 0
    assert installs(root) == 2


def test_a_machine_without_a_fitting_python_is_told_in_one_line(root):
    done = set_up(root, python="/nowhere/python")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Found no Python 3.11 to 3.13" in done.stderr
    assert "/nowhere/python" in done.stderr


def test_the_demo_refuses_an_option_it_does_not_know(root):
    done = subprocess.run(
        ["bash", "launch/demo.sh", "--frehs"], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Unknown option --frehs; there is --fresh.\n"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda x: x.name)
def test_every_script_is_sound_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
