"""Runs one command: parses it, dispatches, and turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import logging

from salt_jax.commands import agreeing, parser, streams
from salt_jax.commands.log_lines import log_to_stderr
from salt_jax.files import buckets
from salt_jax.processes import job
from salt_jax.training.stop_signals import INTERRUPTED, PreemptedError

# The extra of setup.py that installs a package which only some commands need.
EXTRA_OF = {
    "apache_beam": "beam",
    "datasets": "eval",
    "lm_eval": "eval",
    "matplotlib": "plots",
    "mlflow": "mlflow",
    "rouge_score": "eval",
    "wandb": "wandb",
}


DONE, FAILED, REFUSED = 0, 1, 2
NO_READER = 141  # Of standard output: what a shell shows of SIGPIPE.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0: done. 2: refused, and the user can fix it. 75: stopped early, and saved; the same
    command resumes. 130: interrupted from the keyboard. 141: nobody reads the output.
    1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with streams.lossy_stderr():
        log_to_stderr()
        buckets.configure()
        try:
            code = _run(arguments, verbose="--verbose" in arguments)
        finally:
            unwritten = streams.flush_at_exit(sys.stdout)
        if isinstance(unwritten, BrokenPipeError):
            return code or NO_READER
        if unwritten is not None:
            return _refuse(unwritten, code or FAILED, verbose=False)
    return code


def _run(arguments: Sequence[str], *, verbose: bool) -> int:
    try:
        command, options = parser.parse(arguments)
        agreeing.check_alone(command.__name__)
        buckets.check_paths(options)
        return command.run(options)
    except KeyboardInterrupt as error:
        return _refuse(error, INTERRUPTED, verbose=False, line="interrupted.")
    except PreemptedError as stopped:
        print(f"salt_jax: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except (ValueError, FileNotFoundError) as error:
        return _refuse(error, REFUSED, verbose=verbose)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        missing = ValueError(
            f"{package} is not installed and this command needs it: run "
            f"pip install -e '.[{EXTRA_OF[package]}]'."
        )
        return _refuse(missing, REFUSED, verbose=verbose)
    except BrokenPipeError as error:
        if streams.has_no_reader(sys.stdout):
            return NO_READER
        return _refuse(error, FAILED, verbose=verbose)
    except (FloatingPointError, OSError) as error:
        return _refuse(error, FAILED, verbose=verbose)
    except Exception as error:
        line = f"{type(error).__name__}: {_one_line(error)}"
        job.fail(error, line, FAILED, trace=True)
        raise


def _refuse(
    error: BaseException, code: int, *, verbose: bool, line: str | None = None
) -> int:
    line = line or _one_line(error)
    job.fail(error, line, code, trace=verbose)
    if verbose:
        logging.exception("%s", error)
    else:
        print(f"salt_jax: {line}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
