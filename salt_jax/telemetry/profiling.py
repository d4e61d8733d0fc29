"""A trace of some steps of a run, for XProf."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Self

import jax
from absl import logging
from etils import epath


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedSteps:
    """Which steps of a run are traced, counted as those of the experiment."""

    start: int  # Steps made before the first that is traced.
    count: int

    def __post_init__(self):
        if self.start < 0 or self.count < 1:
            raise ValueError(
                f"--profile={self.start}:{self.count}: START is 0 or more, and COUNT 1 "
                "or more."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns what START:COUNT says.

        Raises:
          ValueError: it is not two whole numbers, or there are no such steps.
        """
        found = re.fullmatch(r"(-?\d+):(-?\d+)", text, flags=re.ASCII)
        if found is None:
            raise ValueError(
                f"--profile={text} is not START:COUNT, two whole numbers as in 100:5."
            )
        return cls(start=int(found[1]), count=int(found[2]))

    @property
    def end(self) -> int:
        """Steps made when the last that is traced is."""
        return self.start + self.count

    def check(self, *, from_step: int, total_steps: int) -> None:
        """Refuses steps that a run from `from_step` to `total_steps` will not make.

        Raises:
          ValueError: not all of them are among those.
        """
        if from_step <= self.start and self.end <= total_steps:
            return
        asked = f"--profile={self.start}:{self.count} traces steps {self.start + 1} to"
        if from_step >= total_steps:
            raise ValueError(
                f"{asked} {self.end}, but this run is complete at step {total_steps}: "
                "leave it out."
            )
        raise ValueError(
            f"{asked} {self.end}, but this run makes steps {from_step + 1} to "
            f"{total_steps}: trace some of those, or leave it out."
        )

    def still_ahead(self, from_step: int, total_steps: int) -> TracedSteps | None:
        """Returns the steps for a run that goes on; None, and a warning, if too late.

        A run that is restarted by the same command must not end for having been traced.

        Raises:
          ValueError: the run is complete.
        """
        if self.start < from_step < total_steps:
            logging.warning(
                "Nothing is traced: --profile=%d:%d begins before step %d, from which "
                "this run goes on.",
                *(self.start, self.count, from_step),
            )
            return None
        self.check(from_step=from_step, total_steps=total_steps)
        return self


class Tracer:
    """Writes a trace while a run makes the steps that are to be traced.

    A context manager: leaving it ends a trace that an error or a stop cut short, so
    that what there is can be read.
    """

    def __init__(
        self,
        traced: TracedSteps | None,
        folder: epath.Path,
        *,
        pausing: Callable[[], contextlib.AbstractContextManager[None]],
    ):
        """Plans a trace; without steps to trace, none.

        Args:
          traced: Of which steps.
          folder: Where it is written; one in a bucket if its name begins with gs://.
          pausing: Entered to begin and to end it: waits for the steps before, and keeps
            the time that this takes out of theirs.
        """
        self._traced = traced
        self._folder = folder
        self._pausing = pausing
        self._is_tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Marks what is done until it is left as update number `step`, in any trace."""
        traced = self._traced
        if traced is not None and step == traced.start + 1:
            with self._pausing():
                self._begin(traced)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if traced is not None and step == traced.end:
            with self._pausing():
                self._end()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if not self._is_tracing:
            return
        try:
            self._end()
        except Exception as error:  # What ended the run is the one to raise.
            logging.error(
                "The trace in %s could not be written: %s", self._folder, error
            )

    def _begin(self, traced: TracedSteps) -> None:
        options = jax.profiler.ProfileOptions()
        # Every call of Python would be an event, and slow the host that is looked at.
        options.python_tracer_level = 0
        # By default the time, which hosts do not agree on to the second.
        options.session_id = f"steps_{traced.start + 1}_to_{traced.end}"
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._is_tracing = True
        logging.info(
            "Tracing steps %d to %d into %s.",
            traced.start + 1,
            traced.end,
            self._folder,
        )

    def _end(self) -> None:
        self._is_tracing = False
        jax.profiler.stop_trace()
        logging.info("The trace is in %s.", self._folder)
