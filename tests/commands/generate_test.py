import io
import json
import sys

import pytest

from salt_jax.main import main
from tests import command_files
from tests.generation.said import make_export

OPTIONS = ["--stop=.", "--max_new_tokens=16"]
WRITTEN = " France is Paris"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("said") / "export")


@pytest.fixture
def run(export, capsys, monkeypatch):
    """Runs the command with what is typed; returns what is printed, and the code."""

    def run(*arguments, typed="", terminal=(), exports=(export,)):
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        for name in terminal:
            monkeypatch.setattr(getattr(sys, name), "isatty", lambda: True)
        named = [f"--export={path}" for path in exports]
        code = main(["generate", *named, *OPTIONS, *map(str, arguments)])
        return capsys.readouterr(), code

    return run


def texts(printed):
    lines = [json.loads(line) for line in printed.out.splitlines()]
    return [(line["prompt"], line["continuation"]) for line in lines]


def test_prompts_of_a_file_and_of_standard_input_become_json_lines(run, tmp_path):
    lines = ["The capital of", "\u2603 The capital of France"]
    expected = [(lines[0], WRITTEN), (lines[1], " is Paris")]
    (tmp_path / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    objects = "\n".join(json.dumps({"prompt": line, "n": 1}) for line in lines)
    for arguments, typed in [
        ([f"--prompt_file={tmp_path}/prompts.txt"], ""),
        ([], "\n".join(lines) + "\n"),
        ([], objects),
    ]:
        printed, code = run(*arguments, typed=typed)
        assert (texts(printed), code) == (expected, 0)


def test_one_prompt_is_an_object_in_a_pipe_and_a_stream_on_a_terminal(run):
    printed, _ = run("--prompt=The capital of")
    assert texts(printed) == [("The capital of", WRITTEN)]
    printed, _ = run("--prompt=The capital of", terminal=["stdout"])
    assert printed.out == WRITTEN + "\n"


def test_lines_typed_on_a_terminal_are_gone_on_with_one_after_another(run):
    typed = "The capital of\nThe capital of France is\n"
    printed, code = run(typed=typed, terminal=["stdin", "stdout"])
    assert (printed.out, code) == (f"{WRITTEN}\n Paris\n", 0)


@pytest.mark.slow
def test_sampling_follows_its_options(run):
    # Every token has the same chance at so high a temperature.
    hot = ["--prompt=The", "--temperature=1e6", "--stop=\n"]
    first, again = run(*hot)[0].out, run(*hot)[0].out
    assert first == again != run(*hot, "--seed=1")[0].out
    cut = run("--prompt=The capital of", "--temperature=1e6", "--top_k=1")[0]
    assert texts(cut) == [("The capital of", WRITTEN)]
    assert texts(run("--prompt=The capital of", "--max_new_tokens=2")[0])[0][1] in (
        WRITTEN
    )


def test_the_mesh_is_that_of_an_experiment(run, tmp_path):
    command_files.write_files(tmp_path)
    printed, code = run("--prompt=The capital of", f"--gin_file={tmp_path}/salt.gin")
    assert (texts(printed), code) == ([("The capital of", WRITTEN)], 0)
    mesh = "--gin.partitioning.MeshShape.model=3"
    printed, code = run("--prompt=The", f"--gin_file={tmp_path}/salt.gin", mesh)
    assert code == 2 and "model=3" in printed.err and "8 devices" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt=a", "--prompt_file=b"], "Give --prompt or --prompt_file, not both"),
        (["--prompt_file=nowhere"], "No file of prompts at nowhere."),
        (
            [],
            "There is no prompt in standard input: give --prompt=TEXT",
        ),
        (["--prompt=a", "--top_k=3"], "have no effect at temperature=0"),
        (["--prompt=a", "--temperature=-1"], "temperature=-1.0 is not"),
        (["--prompt=a", "--stop="], "is not a list of nonempty strings"),
        (["--prompt=a", "--max_new_tokens=64"], "exceeds the 64 that the model reads"),
        (["--prompt=a", "--max_length=8"], "exceeds the 8 that the model reads"),
        (
            ["--prompt=a", "--gin_file=gin/tiny_prepare.gin"],
            "binds Preparation, which can prepare",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(run, arguments, message):
    printed, code = run(*arguments)
    errors = [line for line in printed.err.splitlines() if "salt_jax: " in line]
    assert code == 2 and printed.out == ""
    assert len(errors) == 1 and message in errors[0]


def test_one_export_is_needed(run, tmp_path):
    printed, code = run("--prompt=a", exports=())
    assert code == 2 and "generate needs one --export=DIR, got 0" in printed.err
    printed, code = run("--prompt=a", exports=(tmp_path / "gone",))
    assert code == 2 and f"No export at {tmp_path}/gone" in printed.err


def test_text_that_is_not_utf_8_is_refused(run, tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    printed, code = run(f"--prompt_file={tmp_path}/latin")
    assert code == 2 and "latin is not UTF-8" in printed.err
