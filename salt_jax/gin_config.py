"""Gin files and overrides become one frozen value; no other module consults gin."""

from __future__ import annotations

import pathlib
import tokenize
from collections.abc import Sequence

import gin
from absl import logging

from salt_jax.config import Experiment, Scoring
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.gin_reading import field_types, files, messages, statements
from salt_jax.gin_reading.statements import Statements
from salt_jax.lab.values import Lab
from salt_jax.studies.known_truth import KnownTruth

# What can be run, and the field that tells which: shared files may bind other fields of
# all of them.
ROOTS = {
    Experiment: "stages",
    Scoring: "scorer",
    Preparation: "corpus",
    Lab: "arms",
    KnownTruth: "student_steps",
}

# What an override may name beside what the files import.
_IMPORTS = (
    "from salt_jax import config",
    "from salt_jax.optim import guard",
    "from salt_jax.optim import moving_average",
    "from salt_jax.loss import gates",
    "from salt_jax.optim import optimizer",
    "from salt_jax.mesh import partitioning",
    "from salt_jax.optim import schedules",
    "from salt_jax.data.corpora import document",
    "from salt_jax.data.languages import markov",
    "from salt_jax.data.selecting import near_duplicates",
    "from salt_jax.data.reading import answers",
    "from salt_jax.data.reading import mixture",
    "from salt_jax.data.reading import objectives",
    "from salt_jax.data.reading import prepared_text",
    "from salt_jax.data.reading import seqio_data",
    "from salt_jax.data.preparing import prepare",
    "from salt_jax.data.selecting import ranking",
    "from salt_jax.data.selecting import selection",
    "from salt_jax.symptoms import watch",
    "from salt_jax.model import config as model",
    "from salt_jax.storage import starts",
    "from salt_jax.studies import known_truth",
    "from salt_jax.transition import leaving",
    "from salt_jax.transition import weighing",
)
Job = Experiment | Scoring | Preparation | Lab | KnownTruth
_ERRORS = (
    AttributeError,
    ImportError,
    NameError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def load(
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Job:
    """Reads what to run; after this returns, no code consults gin again.

    A gin file, named or included, is looked for in the working directory, beside the
    named files, and among the gin files of salt_jax: "salt_2p8b.gin" and
    "gin/salt_2p8b.gin" are the same one. Python modules that a gin file imports may
    stand in the first two places, which are appended to `sys.path`.

    Args:
      gin_files: Paths; a later file overrides an earlier one.
      overrides: Bindings such as "KD_WEIGHT = 0.5".
      imports: Modules that overrides may name, such as "my_schedules".

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: gin cannot read it, a value is refused, or a binding had no effect.
    """
    paths = [files.named(name) for name in gin_files]
    of_overrides = _of_overrides(overrides)
    try:
        value, of_files = _built(paths, overrides, imports)
        field_types.check(value)
        used = statements.read(gin.operative_config_str())
        if used.required:
            raise ValueError(messages.not_set(used.required))
        idle = statements.unread(of_files, of_overrides, used)
        idle += _overruled(value, of_files, used, paths, overrides, imports)
    except OSError as error:
        raise FileNotFoundError(messages.of_gin(error)) from error
    except _ERRORS as error:
        # What is %gin.REQUIRED still fails where it is used, by any error.
        unset = _required_by_what_was_read()
        text = messages.not_set(unset) if unset else messages.of_gin(error, paths)
        raise ValueError(text) from error
    if idle:
        raise ValueError(
            f"These bindings had no effect: {', '.join(sorted(idle))}. Check their "
            "spelling; gin accepts any scope or macro name."
        )
    return value


def operative_config() -> str:
    """Returns, as gin text, the bindings that the last `load` made use of."""
    return gin.operative_config_str()


def _required_by_what_was_read() -> set[str]:
    try:
        return statements.read(gin.operative_config_str()).required
    except KeyError:  # Gin cannot show a macro that nothing binds.
        return set()


def _of_overrides(overrides: Sequence[str]) -> Statements:
    """Returns what overrides say; refuses by name the one that is not gin text."""
    said = statements.read("")
    for override in overrides:
        try:
            said |= statements.read(override)
        except (SyntaxError, tokenize.TokenError) as error:
            raise ValueError(messages.of_override(override, error)) from error
    return said


def _built(
    paths: Sequence[pathlib.Path], overrides: Sequence[str], imports: Sequence[str]
) -> tuple[Job, Statements]:
    """Returns the value that files and overrides say, and what the files say."""
    gin.clear_config()
    of_files = statements.read("")
    for path in files.parse(paths):
        with files.read(path) as file:
            of_files |= statements.read(file)
    everything = of_files | _of_overrides(overrides)
    gin.parse_config(
        [
            "from __gin__ import dynamic_registration",
            *of_files.imports,
            *(f"import {module}" for module in imports),
            *_IMPORTS,  # Last, so that `config` is ours in an override.
            *overrides,
        ]
    )
    return gin.get_configurable(_root(everything, paths))(), of_files


def _root(said: Statements, paths: Sequence[pathlib.Path]) -> type:
    bound = {statements.short(name) for name in said.bindings}
    roots = [
        root for root, field in ROOTS.items() if f"{root.__name__}.{field}" in bound
    ]
    if len(roots) != 1:
        names = ", ".join(root.__name__ for root in ROOTS)
        found = ", ".join(root.__name__ for root in roots) or "none"
        raise ValueError(
            f"{files.all_shown(paths)} must bind one of {names}; they bind {found}."
        )
    return roots[0]


def _overruled(
    value: Job,
    of_files: Statements,
    used: Statements,
    paths: Sequence[pathlib.Path],
    overrides: Sequence[str],
    imports: Sequence[str],
) -> list[str]:
    """Returns overrides that change nothing, because a narrower scope's binding wins.

    A value equal to a default is no reason to refuse an override by itself. One that
    changes something, but not where the narrower scope is, is a warning.
    """
    idle = []
    narrower = statements.shadowed(of_files, _of_overrides(overrides), used)
    for override in overrides:
        names = statements.read(override).bindings.keys() & narrower.keys()
        others = [other for other in overrides if other != override]
        is_same = bool(names) and _built(paths, others, imports)[0] == value
        for name in names:
            winner, wins_everywhere = narrower[name]
            if wins_everywhere or (is_same and name not in of_files.bindings):
                idle.append(f"{name} (overruled by {winner})")
            else:
                logging.warning("%s does not reach %s, which stays.", name, winner)
    if narrower:
        _built(paths, overrides, imports)  # Its operative config is the last.
    return idle
