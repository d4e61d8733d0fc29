import pytest

from salt_jax.commands import parser


@pytest.mark.parametrize(
    "arguments, said",
    [(["train", "--gin_file=x", "--temperature=3"], "--temperature is for generate,"),
     (["import", "--from=a", "--max_length=7"], "--max_length is for generate, evalu"),
     (["generate", "--export=a", "--from=b"], "--from is for import, not for generate"),
     (["--gin_file=x", "--json"], "--json is for compile, not for a command that is"),
     (["generate", "--export=a", "--gin.NOPE=1"], "no effect without --gin_file"),
     (["generate", "--export=a", "--max_length=0"], "0 is not positive"),
     (["evaluate", "--limit=-1"], "-1 is not positive")],
)  # fmt: skip
def test_an_option_that_would_have_no_effect_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--gin_file=x", "--profile=2:3", "--accept_change=a"],
     ["--gin_file=x", "--verify"],
     ["export", "--gin_file=x", "--format=hf", "--step=3", "--max_length=8"],
     ["evaluate", "--export=a", "--tasks=b", "--batch_size=2"],
     ["report", "--export=a", "--salt=b"], ["compile", "--gin_file=x", "--save=a"]],
)  # fmt: skip
def test_an_option_of_the_command_is_taken(arguments):
    assert parser.parse(arguments)
