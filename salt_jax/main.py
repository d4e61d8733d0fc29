"""Runs one command: parses it, dispatches, and turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import logging

from salt_jax.commands import parser
from salt_jax.commands.log_lines import log_to_stderr

# The extra of setup.py that installs a package which only some commands need.
EXTRA_OF = {
    "apache_beam": "beam",
    "datasets": "eval",
    "lm_eval": "eval",
    "matplotlib": "plots",
    "rouge_score": "eval",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0: done, or asked to stop and saved. 2: the user can fix it. 130: interrupted from
    the keyboard. 1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in arguments
    log_to_stderr()
    try:
        command, options = parser.parse(arguments)
        return command.run(options)
    except KeyboardInterrupt:
        print("salt_jax: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError) as error:
        return _refuse(error, 2, verbose=verbose)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        missing = ValueError(
            f"{package} is not installed and this command needs it: run "
            f"pip install -e '.[{EXTRA_OF[package]}]'."
        )
        return _refuse(missing, 2, verbose=verbose)
    except (FloatingPointError, OSError) as error:
        return _refuse(error, 1, verbose=verbose)


def _refuse(error: Exception, code: int, *, verbose: bool) -> int:
    if verbose:
        logging.exception("%s", error)
    else:
        print(f"salt_jax: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
