"""Score the training sequences with a small model.

A selection ranks sequences by their scores. Shards that are already scored are kept:
the same command resumes, and several processes share the work.
"""

from __future__ import annotations

import argparse
import dataclasses

from salt_jax.commands.options import GinOptions, add_distributed, add_gin, join
from salt_jax.commands.outputs import record

EXAMPLES = """\
  salt_jax score --gin_file=gin/tiny_score.gin
  salt_jax score --gin_file=gin/score_pile.gin --gin.SCORER="'/exports/slm_early'\""""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of score."""

    distributed: str | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of score."""
    add_gin(parser)
    add_distributed(parser.add_argument_group("processes").add_argument)


def run(options: Options) -> int:
    """Writes the scores.

    Raises:
      FileNotFoundError: a gin file, the data or the scorer's export is missing.
      ValueError: they do not go together, or do not fit the devices.
    """
    join(options.distributed)
    from salt_jax.config import Scoring
    from salt_jax.score import score

    scoring = options.load("score", Scoring)
    score(scoring)
    record(scoring.output, "score", options)
    return 0
