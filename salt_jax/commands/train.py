"""Train an experiment, or resume it from its latest checkpoint.

Every stage is compiled before the first step. The run directory keeps checkpoints,
metrics.jsonl, TensorBoard events, config.gin and experiment.json. SIGTERM, SIGHUP,
SIGUSR1 and SIGUSR2 save the state and end with exit code 75, Ctrl-C with 130; the same
command resumes the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence

from absl import logging

from salt_jax.commands import streams
from salt_jax.commands.options import (
    RunOptions,
    add_distributed,
    add_gin,
    add_workdir,
    join,
    positive,
)
from salt_jax.commands.outputs import record
from salt_jax.training.stop_signals import PreemptedError, StopSignals

EXAMPLES = """\
  salt_jax train --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  salt_jax train --gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5 --distributed=auto"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of train."""

    accept_change: Sequence[str] = ()
    baseline: str | None = None
    compiled: str | None = None
    trust_pickles: bool = False
    profile: str | None = None
    tracker: Sequence[str] = ()
    restore_step: int | None = None
    debug_step: int | None = None
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        idle = self.compiled or self.profile or self.tracker
        if self.debug_step is not None and idle:
            raise ValueError(
                "--debug_step trains nothing: leave out --compiled, --profile and "
                "--tracker."
            )
        if self.compiled is not None and not self.trust_pickles:
            raise ValueError(
                f"--compiled={self.compiled} holds pickles, which can run any program "
                "when they are read: add --trust_pickles if you trust who wrote them."
            )
        if self.trust_pickles and self.compiled is None:
            raise ValueError("--trust_pickles is for --compiled, which is missing.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of train."""
    add_gin(parser)
    group = parser.add_argument_group("run")
    add_workdir(group.add_argument)
    group.add_argument(
        "--accept_change",
        action="append",
        metavar="FIELD",
        help="resume although this field of the experiment changed; repeatable",
    )
    group.add_argument(
        "--baseline",
        metavar="DIR",
        help="run directory of BASELINE: warn if held-out loss stays above its curve",
    )
    group.add_argument(
        "--compiled",
        metavar="DIR",
        help="steps that compile --save wrote (default: compile them now); needs "
        "--trust_pickles",
    )
    group.add_argument(
        "--trust_pickles",
        action="store_true",
        help="unpickle the steps of --compiled: whoever wrote those files can run any "
        "program as you",
    )
    group.add_argument(
        "--profile", metavar="START:N", help="trace N steps after step START"
    )
    group.add_argument(
        "--restore_step",
        type=int,
        metavar="N",
        help="resume from the checkpoint of step N; later ones are set aside",
    )
    group.add_argument(
        "--tracker",
        action="append",
        choices=("mlflow", "wandb"),
        help="show the metrics there too, beside TensorBoard; repeatable",
    )
    group.add_argument(
        "--debug_step",
        type=positive,
        metavar="N",
        help="instead of training, replay step N from the nearest checkpoint and print "
        "its norms by layer and its losses by row",
    )
    add_distributed(group.add_argument)


def run(options: Options) -> int:
    """Trains to the end of the last stage.

    Raises:
      FileNotFoundError: a gin file, data, scores or an export is missing.
      ModuleNotFoundError: the package of a tracker is not installed.
      ValueError: the experiment cannot run here, or belongs to another run directory.
      FloatingPointError: a loss was not finite.
      PreemptedError: a signal asked to stop, and the state was saved.
    """
    from salt_jax.telemetry.trackers.opening import check_installed

    if options.debug_step is not None:
        return _debug(options, options.debug_step)
    began = time.monotonic()
    check_installed(options.tracker)
    # The log of a run is not worth the run.
    with streams.lossy_stdout(), StopSignals() as signals:
        join(options.distributed)
        signals.take()  # JAX takes SIGTERM when processes join.
        try:
            _train(options, began, signals)
        except PreemptedError:
            _record(options)
            raise
        _record(options)
    return 0


def _train(options: Options, began: float, signals: StopSignals) -> None:
    from salt_jax.config import Experiment
    from salt_jax.symptoms.watch import Watch
    from salt_jax.telemetry.profiling import TracedSteps
    from salt_jax.train import train

    experiment = options.load("train", Experiment)
    if options.baseline is not None:
        watch = experiment.watch or Watch()
        watch = dataclasses.replace(watch, baseline=options.baseline)
        experiment = dataclasses.replace(experiment, watch=watch)
    train(
        experiment,
        options.run_directory(),
        operative_gin=options.operative_gin(),
        accepted_changes=options.accept_change,
        traced=TracedSteps.parse(options.profile) if options.profile else None,
        began=began,
        compiled=options.compiled,
        restore_step=options.restore_step,
        trackers=options.tracker,
        signals=signals,
    )


def _debug(options: Options, step: int) -> int:
    """Prints what a step was made of."""
    join(options.distributed)
    import jax

    from salt_jax.config import Experiment
    from salt_jax.evaluation.debug_step import debug_step

    experiment = options.load("train", Experiment)
    accepted = options.accept_change
    text = debug_step(
        experiment, options.run_directory(), step, accepted_changes=accepted
    )
    if jax.process_index() == 0:
        print(text)
    return 0


def _record(options: Options) -> None:
    try:
        record(options.run_directory(), "train", options)
    except (OSError, ValueError) as error:
        logging.warning("This command is not recorded (%s).", error)
