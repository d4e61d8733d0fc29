import functools
import logging
import pathlib

import gin
import pytest

from salt_jax.commands import compare
from salt_jax.main import EXTRA_OF, main
from tests import command_files


@pytest.fixture(autouse=True)
def _as_before():
    """Commands set up logging and gin for their whole process."""
    root, absl = logging.getLogger(), logging.getLogger("absl")
    kept = root.handlers, absl.handlers, absl.propagate, absl.level
    yield
    root.handlers, absl.handlers, absl.propagate, absl.level = kept
    gin.clear_config()


@pytest.fixture
def refused(capsys):
    """Runs a command that is refused: returns its one line on stderr."""
    return functools.partial(command_files.refusal, capsys)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--nonsense"], "got --nonsense"),
        (["train", "--gin_file=x", "--nonsense=3"], "train has no option --nonsense;"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--work=x"], "no option --work"),
        (["train", "x", "--gin_file=y"], "'x'"),
        ([], "--gin_file=FILE"),
        (["train"], "Give --gin_file=FILE"),
        (["--gin_file=gin/salt.gin"], "No gin file at 'gin/salt.gin'"),
        (["score", "--gin_file=gin/tiny_slm.gin"],
         "bias_variance; score needs Scoring"),
        (["train", "--gin_file=gin/tiny_score.gin"], "describe; train needs"),
        (["export", "--gin_file=gin/tiny_prepare.gin"], "describe; export needs"),
        (["--gin_file=gin/models/llm_tiny.gin"], "they bind none"),
        (["--gin_file=gin/tiny_slm.gin", "--gin.SEDE=1"], "no effect: SEDE"),
        (["--gin_file=gin/tiny_slm.gin", "--gin_bindings=SEDE = 1"], "effect: SEDE"),
        (["--gin_file=gin/tiny_slm.gin", "--distributed=2"],
         "--distributed=2 is neither auto nor HOST:PORT,COUNT,INDEX"),
        (["--gin_file=gin/tiny_slm.gin", "--profile=5"],
         "--profile=5 is not START:COUNT: give two integers, as in 100:5."),
        (["report"], "required: --baseline, --salt, --slm, --output"),
        (["report", "--baseline=a", "--salt=b"], "required: --slm, --output"),
        (["report", "--baseline=a", "--salt=b", "--slm=c", "--output=d", "--salt=e"],
         "got 1 and 2; compare"),
        (["report", "--baseline=a", "--salt=b", "--slm=c", "--output=d"],
         "No evaluation.json in a"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said, refused):
    assert said in refused(*arguments)


def test_a_file_that_includes_a_missing_one_is_refused_by_name(refused, tmp_path):
    (tmp_path / "mine.gin").write_text("include 'gin/shared/nothing.gin'\n")
    assert "gin/shared/nothing.gin" in refused(f"--gin_file={tmp_path}/mine.gin")


def test_help_is_short_and_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5" in out
    assert len(out.splitlines()) < 46
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    out = capsys.readouterr().out
    assert "--top_p" in out and "--slices_by" not in out


def test_verbose_shows_where_an_error_came_from(capsys):
    assert main(["--gin_file=gin/salt.gin", "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "No gin file at 'gin/salt.gin'" in err


@pytest.mark.slow
def test_a_process_of_its_own_ends_with_the_code_and_without_a_traceback():
    done = command_files.run("--gin_file=gin/salt.gin")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("salt_jax: No gin file at 'gin/salt.gin'")


@pytest.mark.parametrize("package", EXTRA_OF)
def test_a_package_of_an_extra_that_is_missing_is_named_with_its_extra(
    package, refused, monkeypatch
):
    def run(options):
        raise ModuleNotFoundError(name=f"{package}.part")

    monkeypatch.setattr(compare, "run", run)
    line = refused("compare", "--baseline=one", "--salt=two")
    assert package in line and f"'.[{EXTRA_OF[package]}]'" in line
    assert f'"{EXTRA_OF[package]}": ' in pathlib.Path("setup.py").read_text()


def test_a_missing_package_that_no_extra_has_is_a_defect(monkeypatch):
    def run(options):
        raise ModuleNotFoundError(name="jax")

    monkeypatch.setattr(compare, "run", run)
    with pytest.raises(ModuleNotFoundError):
        main(["compare", "--baseline=one", "--salt=two"])
