"""The scripts, run with a stand-in for Python where they would install."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"

# Makes a virtual environment whose python notes what it was asked, and may fail.
STAND_IN = """#!/bin/bash
if [[ $1 == -m ]]; then
  mkdir -p "$4"/bin
  printf '#!/bin/bash\\necho "$*" >> asked; test ! -e pip_fails\\n' > "$4"/bin/python
  chmod +x "$4"/bin/python
fi
"""
UV = """#!/bin/bash
echo "uv $*" >> asked
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def root(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "setup.py").write_text("version = 1")
    script(tmp_path / "stand_in", STAND_IN)
    return tmp_path


def set_up(root, python="./stand_in", path="", **variables):
    """Sources env.sh as the scripts do, and says what came of it."""
    return subprocess.run(
        ["bash", "-c", "set -euo pipefail; source launch/env.sh; echo ready"],
        cwd=root,
        env={
            "PATH": f"{path}:/usr/bin:/bin",
            "PYTHON": python,
            "HOME": str(root),
            "INSTALLER": "pip",
        }
        | variables,
        capture_output=True,
        text=True,
    )


def asked(root):
    return (root / "asked").read_text()


def installs(root):
    return asked(root).count("pip install")


def test_a_second_set_up_installs_nothing(root):
    assert "Installing" in set_up(root).stdout
    assert set_up(root).stdout == "ready\n"
    assert installs(root) == 1


def test_what_the_tests_need_does_not_bring_the_compiler_for_gpus(root):
    set_up(root)
    set_up(root, EXTRA="cuda")
    assert installs(root) == 2 and "[cuda]" in asked(root)


def test_every_extra_that_a_script_installs_is_one_of_the_package():
    setup = (ROOT / "setup.py").read_text()
    scripts = [
        *(ROOT / "launch").iterdir(),
        *ROOT.glob("docs/*.md"),
        ROOT / "README.md",
    ]
    named = {
        extra
        for path in scripts
        for extras in re.findall(r"EXTRA=([a-z0-9_,]+)", path.read_text())
        for extra in extras.split(",")
    }
    assert {"cuda", "tpu", "gcs"} <= named
    assert [extra for extra in named if f'"{extra}": ' not in setup] == []


def test_a_change_of_setup_py_installs_again(root):
    set_up(root)
    (root / "setup.py").write_text("version = 2")
    set_up(root)
    assert installs(root) == 2


def test_what_the_tests_need_is_enough_for_the_demo_and_not_the_reverse(root):
    set_up(root, EXTRA="eval")
    assert installs(root) == 1
    set_up(root)
    assert installs(root) == 2
    set_up(root, EXTRA="eval")
    assert installs(root) == 2
    assert "[eval]" in asked(root)


def test_uv_is_used_where_it_is_and_fetched_where_it_is_not(root):
    script(root / "tools" / "uv", UV)
    set_up(root, path=root / "tools", INSTALLER="uv")
    assert asked(root).startswith("uv pip install") and "[dev]" in asked(root)
    (root / "asked").unlink()
    script(root / ".venv-uv" / "unused", "")
    done = set_up(root, VENV=".venv-uv", INSTALLER="uv")
    assert "-m pip install -qq uv" in asked(root)
    assert done.returncode != 0  # The stand-in for pip brings no uv.


def test_pip_installs_where_uv_cannot_be_fetched(root):
    (root / "pip_fails").touch()
    done = set_up(root, INSTALLER="uv")
    assert "installing with pip" in done.stdout
    assert installs(root) == 2 and "[dev]" in asked(root)


def test_another_interpreter_installs_again(root):
    set_up(root)
    other = script(root / "other", STAND_IN)
    set_up(root, python=str(other))
    set_up(root, python=str(other))
    assert installs(root) == 2


def test_a_version_of_python_is_found_in_pyenv(root):
    script(root / ".pyenv/versions/3.12.9/bin/python3.12", STAND_IN)
    done = set_up(root, python="3.12")
    assert done.stdout.endswith("ready\n")
    assert "versions/3.12.9" in (root / ".venv/installed").read_text()


def test_environments_of_two_versions_stand_side_by_side(root):
    set_up(root, VENV=".venv-newest")
    set_up(root)
    assert set_up(root, VENV=".venv-newest").stdout == "ready\n"
    assert installs(root) == 2


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
