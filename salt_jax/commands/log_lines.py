"""Log lines of a command, on standard error."""

from __future__ import annotations

import logging as python_logging
import sys

from absl import logging


def log_to_stderr() -> None:
    """Shows the package's own log lines, and others' warnings except gin's.

    What gin warns about is raised as an error.
    """
    handler = python_logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            "salt_jax" in record.pathname
            or (
                record.levelno >= python_logging.WARNING
                and "/gin/" not in record.pathname
            )
        )
    )
    python_logging.getLogger().handlers = [handler]
    logger = python_logging.getLogger("absl")
    logger.handlers, logger.propagate = [], True
    logging.set_verbosity(logging.INFO)
