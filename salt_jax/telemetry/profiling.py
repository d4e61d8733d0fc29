"""Profiler traces of some steps of a run, for XProf."""

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
    """The steps to trace, counted from the start of the experiment."""

    start: int  # Steps before the first traced step.
    count: int

    def __post_init__(self):
        if self.start < 0 or self.count < 1:
            raise ValueError(
                f"--profile={self.start}:{self.count}: START must be at least 0 and "
                "COUNT at least 1."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses START:COUNT.

        Raises:
          ValueError: the text is not two integers, or they are out of range.
        """
        found = re.fullmatch(r"(-?\d+):(-?\d+)", text, flags=re.ASCII)
        if found is None:
            raise ValueError(
                f"--profile={text} is not START:COUNT: give two integers, as in 100:5."
            )
        return cls(start=int(found[1]), count=int(found[2]))

    @property
    def end(self) -> int:
        """The number of the last traced step, counted from 1."""
        return self.start + self.count

    def check(self, *, from_step: int, total_steps: int) -> None:
        """Checks that a run from `from_step` to `total_steps` makes all these steps.

        Raises:
          ValueError: the run does not make them all.
        """
        if from_step <= self.start and self.end <= total_steps:
            return
        asked = f"--profile={self.start}:{self.count} traces steps {self.start + 1} to"
        if from_step >= total_steps:
            raise ValueError(
                f"{asked} {self.end}, but this run is complete at step {total_steps}: "
                "remove --profile."
            )
        raise ValueError(
            f"{asked} {self.end}, but this run makes steps {from_step + 1} to "
            f"{total_steps}: trace some of those, or remove --profile."
        )

    def still_ahead(self, from_step: int, total_steps: int) -> TracedSteps | None:
        """Returns the steps to trace in a resumed run; None if they are past.

        Past steps are a warning, no error: the same command may restart a run.

        Raises:
          ValueError: the run is complete.
        """
        if self.start < from_step < total_steps:
            logging.warning(
                "Nothing is traced: --profile=%d:%d begins before step %d, where this "
                "run resumes.",
                *(self.start, self.count, from_step),
            )
            return None
        self.check(from_step=from_step, total_steps=total_steps)
        return self


class Tracer:
    """Traces some steps of a run.

    A context manager: on leaving, it ends a trace that an error or a stop cut short, so
    that the partial trace is readable.
    """

    def __init__(
        self,
        traced: TracedSteps | None,
        folder: epath.Path,
        *,
        pausing: Callable[[], contextlib.AbstractContextManager[None]],
    ):
        """Plans a trace.

        Args:
          traced: The steps to trace; None: no trace.
          folder: The directory of the trace, local or gs://.
          pausing: Entered while a trace begins or ends. It waits for the steps before,
            so that this time does not count as theirs.
        """
        self._traced = traced
        self._folder = folder
        self._pausing = pausing
        self._is_tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Labels the block as a step of a trace; begins and ends the planned trace."""
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
        except Exception as error:  # Do not hide the error that ended the run.
            logging.error(
                "The trace in %s could not be written: %s", self._folder, error
            )

    def _begin(self, traced: TracedSteps) -> None:
        options = jax.profiler.ProfileOptions()
        # Otherwise every Python call is an event, which slows the host being profiled.
        options.python_tracer_level = 0
        # The default is the time, on which hosts may disagree by a second.
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
