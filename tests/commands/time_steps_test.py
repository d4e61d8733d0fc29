import json
import shlex

import pytest

from salt_jax.commands import parser
from salt_jax.commands.outputs import command_line
from salt_jax.main import main


def test_a_command_line_gives_the_options_it_was_made_of():
    for words in (
        ["train", "--gin_file=a.gin", "--gin_file=b.gin", "--gin.X='it is'"],
        ["evaluate", "--tasks=a,b", "--export=x", "--export=y", "--limit=8"],
        ["evaluate", "--tasks=a", "--export=x", "--confirm_run_unsafe_code"],
        ["export", "--gin_file=a.gin", "--format=hf", "--workdir=with space"],
        ["time_steps", "--gin_file=a.gin", "--output=x.json", "--rounds=3"],
    ):
        _, options = parser.parse(words)
        line = command_line(words[0], options)
        program, *again = shlex.split(line)
        assert program == "salt_jax"
        assert parser.parse(again)[1] == options


@pytest.mark.slow
def test_an_experiment_is_timed_beside_another(tmp_path, capsys):
    beside = tmp_path / "small.gin"
    beside.write_text("include 'gin/tiny_slm.gin'\nBATCH_SIZE = 8\nSEQ_LEN = 64\n")
    output = tmp_path / "new" / "times.json"
    arguments = ["--gin.BATCH_SIZE=8", "--gin.SEQ_LEN=64", f"--beside={beside}"]
    arguments += ["--rounds=2", "--steps_per_block=1", f"--output={output}"]
    assert main(["time_steps", "--gin_file=gin/tiny_baseline.gin", *arguments]) == 0
    said = json.loads(output.read_text())
    names = [update["name"] for update in said["updates"]]
    assert names == ["tiny_baseline/standard", "small/standard"]
    plain, small = said["updates"]
    assert plain["ratio_to_plain"]["median"] == 1.0
    assert plain["flops"] > small["flops"]
    assert len(small["seconds"]) == small["blocks"] == 2
    assert f"--beside={beside} --rounds=2" in said["command"]
    out = capsys.readouterr().out
    assert all(name in out for name in names)
