"""Check the GPU or TPU of this machine: what is right, and how fast.

Losses and attention kernels against their formulas, steps beside predictions, a real
run killed and resumed, saved steps, decoding: in eight minutes, with random parameters
and the embedded text. Each check runs in a process of its own, so that one that crashes
or hangs costs no other. Exit code 0: all passed; 1: one did not; 2: nothing to check.
"""

from __future__ import annotations

import argparse
import dataclasses

from salt_jax.commands.options import positive
from salt_jax.commands.outputs import command_line
from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax check
  salt_jax check --only=loss,attention
  salt_jax check --small      # tries the check itself, on a CPU"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of check."""

    output: str = "runs/check_accelerator"
    seconds: int = 480
    only: str | None = None
    small: bool = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of check."""
    parser.add_argument(
        "--output", metavar="DIR", help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="N",
        help="the time for all checks (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        help="only these checks, and those whose files they use",
    )
    parser.add_argument(
        "--small", action="store_true", help="small sizes, on a CPU too"
    )


def run(options: Options) -> int:
    """Runs the checks, and returns 0 if all of them passed and 1 if not.

    Raises:
      ValueError: there is no accelerator, or no such check.
    """
    import pathlib

    from salt_jax.checkup.checkup import PAGE, check_accelerator
    from salt_jax.checkup.plan import chosen

    checks = chosen(options.only.split(",") if options.only else ())
    with alone_at(options.output):
        has_passed = check_accelerator(
            pathlib.Path(options.output),
            seconds=options.seconds,
            small=options.small,
            command=command_line("check", options),
            checks=checks,
        )
    print(f"The page is {options.output}/{PAGE}.")
    return 0 if has_passed else 1
