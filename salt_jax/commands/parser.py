"""The command line: which commands there are, and the options of the one given."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from salt_jax.commands.options import COMMANDS_OF, GinOptions, add_gin

# The module of each command, in the order in which one runs them. A module imports
# what is slow to import only when it runs, so that help and refusals come at once.
COMMANDS = {
    "vocabulary": "salt_jax.commands.vocabulary",
    "prepare": "salt_jax.commands.prepare",
    "describe": "salt_jax.commands.describe",
    "train": "salt_jax.commands.train",
    "status": "salt_jax.commands.status",
    "checkpoints": "salt_jax.commands.checkpoints",
    "score": "salt_jax.commands.score",
    "select": "salt_jax.commands.select",
    "evaluate": "salt_jax.commands.evaluate",
    "generate": "salt_jax.commands.generate",
    "export": "salt_jax.commands.export",
    "import": "salt_jax.commands.import_",
    "compile": "salt_jax.commands.compile",
    "time_steps": "salt_jax.commands.time_steps",
    "check": "salt_jax.commands.check",
    "lab": "salt_jax.commands.lab",
    "report": "salt_jax.commands.report",
    "compare": "salt_jax.commands.compare",
    "bias_variance": "salt_jax.commands.bias_variance",
}
DESCRIPTION = "SALT: pre-training of a large language model helped by a small one."
EPILOG = """examples:
  salt_jax --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  salt_jax train --gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5
  salt_jax evaluate --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  salt_jax generate --export=runs/demo/exports/salt_ds --prompt=The

Without a COMMAND, --gin_file decides: an Experiment trains, a Scoring scores, a
Preparation prepares, a Lab runs all that it compares. `salt_jax COMMAND --help` lists
the options of a command. `python -m salt_jax.main` is the same as `salt_jax`."""

_Options = TypeVar("_Options")


def parse(arguments: Sequence[str]) -> tuple[ModuleType, Any]:
    """Returns the module of the command that `arguments` name, and its options.

    Ends the process if the arguments ask for help.

    Raises:
      FileNotFoundError: there is no command, and no such gin file.
      ValueError: the arguments cannot be parsed, or options do not go together; or
        there is no command, and none follows from gin files.
    """
    arguments = _as_bindings(arguments)
    modules = {name: importlib.import_module(path) for name, path in COMMANDS.items()}
    parser = _parser(modules)
    is_named = bool(arguments) and not arguments[0].startswith("-")
    if not is_named and not {"-h", "--help"} & set(arguments):
        arguments = [_default_command(arguments), *arguments]
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        said = _unknown(unknown[0], given.command, modules)
        raise ValueError(f"{said}; see salt_jax {given.command} --help.")
    module = modules[given.command]
    return module, _options(module.Options, given)


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with a command as one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help.")


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="salt_jax",
        usage="%(prog)s [COMMAND] [--gin_file=FILE] [OPTION ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog="salt_jax"
    )
    for name, module in modules.items():
        description = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=_summary(description),
            usage="%(prog)s [OPTION ...]",
            description=description,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(command)
        command.add_argument(
            "--verbose", action="store_true", help="show the traceback of an error"
        )
        command.set_defaults(**_defaults(module.Options))
    return parser


def _summary(description: str) -> str:
    """Returns the first line of a description, as an item of a list."""
    line = description.partition("\n")[0].removesuffix(".")
    return line[:1].lower() + line[1:]


def _defaults(options: type) -> dict[str, Any]:
    """Returns the defaults of a dataclass of options, as argparse takes them."""
    return {
        field.name: list(field.default)
        if isinstance(field.default, tuple)
        else field.default
        for field in dataclasses.fields(options)
        if field.default is not dataclasses.MISSING
    }


def _options(kind: type[_Options], given: argparse.Namespace) -> _Options:
    """Returns the frozen options of a command; raises as `kind` does."""
    values = {
        field.name: getattr(given, field.name)
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def _default_command(arguments: Sequence[str]) -> str:
    """Returns the command that runs what the gin files among `arguments` bind."""
    parser = _Parser(prog="salt_jax", add_help=False, allow_abbrev=False)
    add_gin(parser)
    parser.set_defaults(**_defaults(GinOptions))
    given, others = parser.parse_known_args(arguments)
    if not given.gin_file:
        got = f", got {others[0]}" if others else ""
        raise ValueError(f"Give a COMMAND or --gin_file=FILE{got}; see --help.")
    bound = type(_options(GinOptions, given).load_any()).__name__
    return COMMANDS_OF[bound][0]


def _unknown(argument: str, command: str, modules: dict[str, ModuleType]) -> str:
    """Returns what to say of an argument that a command does not take."""
    if not argument.startswith("--"):
        return f"{command} does not take the argument {argument!r}"
    option = argument.partition("=")[0]
    others = [
        name
        for name, module in modules.items()
        if option.removeprefix("--") in module.Options.__dataclass_fields__
    ]
    where = f" (it is of {' and '.join(others)})" if others else ""
    return f"{command} has no option {option}{where}"


def _as_bindings(arguments: Sequence[str]) -> list[str]:
    """Turns --gin.NAME=VALUE into --gin_bindings=NAME=VALUE."""
    prefix = "--gin."
    return [
        f"--gin_bindings={argument.removeprefix(prefix)}"
        if argument.startswith(prefix) and "=" in argument
        else argument
        for argument in arguments
    ]
