import subprocess
import sys

import pytest

from salt_jax.commands import parser


@pytest.mark.parametrize(
    "arguments, said",
    [(["train", "--gin_file=x", "--temperature=3"],
      "train has no option --temperature .*generate"),
     (["import", "--from=a", "--output=b", "--max_length=7"], "no option --max_length"),
     (["generate", "--export=a", "--from=b"], "generate has no option --from"),
     (["--gin_file=gin/tiny_slm.gin", "--json"], "no option --json .*compile"),
     (["--gin_file=gin/tiny_prepare.gin", "--profile=1:2"], "prepare has no option"),
     (["generate", "--export=a", "--gin.NOPE=1"], "'NOPE=1'.*--gin_file"),
     (["generate", "--export=a", "--max_length=0"], "--max_length: 0 is not positive"),
     (["evaluate", "--limit=-1"], "--limit: -1 is not positive"),
     (["evaluate", "--gin_file=x", "--limit=3"], "--limit is for --tasks"),
     (["evaluate", "--gin_file=x", "--batch_size=3"], "--batch_size is for --tasks"),
     (["evaluate", "--export=a", "--tasks=b", "--step=3"], "--step"),
     (["export", "--export=a", "--output=b"], "--format=hf"),
     (["export", "--gin_file=x", "--max_length=8"], "--max_length.*--format=hf"),
     (["export", "--gin_file=x", "--format=hf", "--distributed=auto"], "--distributed"),
     (["compile", "--gin_file=x", "--topology=here", "--output=a"], "--search"),
     (["compare", "--baseline=a", "--baseline=b", "--salt=c"], "2 and 1")],
)  # fmt: skip
def test_an_option_that_would_have_no_effect_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        parser.parse(arguments)


@pytest.mark.parametrize(
    "arguments, field, value",
    [(["train", "--gin_file=x", "--profile=2:3", "--accept_change=a"],
      "accept_change", ("a",)),
     (["prepare", "--gin_file=x", "--verify"], "verify", True),
     (["--gin_file=gin/tiny_prepare.gin", "--verify"], "verify", True),
     (["export", "--gin_file=x", "--format=hf", "--step=3", "--max_length=8"],
      "max_length", 8),
     (["evaluate", "--export=a", "--tasks=b"], "batch_size", 8),
     (["generate", "--export=a", "--export=b", "--export=c"][:2], "export", ("a",)),
     (["compile", "--gin_file=x", "--topology=here", "--search"], "search", 12),
     (["train", "--gin_file=x", "--gin.A=1", "--gin_bindings=B = 2"],
      "gin_bindings", ("A=1", "B = 2"))],
)  # fmt: skip
def test_an_option_of_the_command_is_taken(arguments, field, value):
    _, options = parser.parse(arguments)
    assert getattr(options, field) == value


HELP = """
import contextlib, io, sys
from salt_jax.main import main
for arguments in {arguments}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
slow = {{"flax", "gin", "jax", "matplotlib", "numpy", "tensorflow"}} & set(sys.modules)
assert not slow, slow
"""


def test_help_and_refusals_come_before_anything_slow_is_imported():
    each = [[name, "--help"] for name in parser.COMMANDS]
    arguments = [["--help"], *each, ["train", "--nonsense"]]
    program = HELP.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_the_help_of_a_command_has_its_defaults_and_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"salt_jax {name} " in out.partition("examples:")[2]
    for wrong in ("(default: None)", "(default: [])", "(default: ())"):
        assert wrong not in out
