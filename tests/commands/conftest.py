"""What commands are run on, made once; and what they may not leave behind."""

import functools
import logging

import gin
import pytest

from salt_jax.main import main
from tests import command_files, runs


@pytest.fixture(autouse=True)
def _as_before():
    """Commands set up logging and gin for their whole process."""
    root, absl = logging.getLogger(), logging.getLogger("absl")
    kept = root.handlers, absl.handlers, absl.propagate, absl.level
    yield
    root.handlers, absl.handlers, absl.propagate, absl.level = kept
    gin.clear_config()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Gin files, and what their first commands make: data, exports and scores."""
    folder = tmp_path_factory.mktemp("files")
    command_files.write_files(folder)
    assert main([f"--gin_file={folder}/prepare.gin"]) == 0
    runs.make_teacher(folder / "teacher", model=command_files.TEACHER)
    runs.make_teacher(folder / "early", model=command_files.TEACHER)
    assert main(["score", f"--gin_file={folder}/score.gin"]) == 0
    return folder


@pytest.fixture(scope="session")
def trained(files, tmp_path_factory):
    """The arguments that name a BASELINE run, and its workdir, complete."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={workdir}"]
    assert main(["train", *named]) == 0
    return named, workdir


@pytest.fixture
def refused(capsys):
    """Runs a command that is refused: returns its one line on stderr."""
    return functools.partial(command_files.refusal, capsys)
