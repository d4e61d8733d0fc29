"""Progress of long work: a bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from salt_jax.processes import job

# A log gets a line after this share of the total or this time, whichever is first.
LINE_SHARE = 0.1
LINE_SECONDS = 15.0


class Progress:
    """A progress bar on a terminal; elsewhere a line now and then.

    Both show the count, the rate and the time left. The caller chooses the unit: steps,
    documents, sequences. `initial`, the count of earlier processes, is excluded from
    the rate. The time left is that of a log's line in proportion to `work`, the work of
    the first so many.
    """

    def __init__(
        self,
        label: str,
        total: int,
        initial: int = 0,
        *,
        work: Callable[[int], float] = float,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._label, self._total, self._initial = label, total, initial
        self._done, self._facts = initial, ""
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._work = clock, work
        self._begun = self._said_at = clock()
        self._said: int | None = None
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                desc=label,
                total=total,
                initial=initial,
                file=self._stream,
                dynamic_ncols=True,
            )

    def update(self, done: int, **facts: Any) -> None:
        """Shows that `done` of the total are done, and `facts`; floats in 4 digits."""
        job.note()
        self._facts = ", ".join(f"{name} {_plain(x)}" for name, x in facts.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._facts, refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        if self._bar is None and self._is_line_due():
            self._write_line()

    def close(self) -> None:
        """Closes the bar, or writes the last count as a line if not yet written."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._write_line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_line_due(self) -> bool:
        since = self._done - (self._initial if self._said is None else self._said)
        return (
            self._done >= self._total
            or since >= LINE_SHARE * self._total
            or self._clock() - self._said_at >= LINE_SECONDS
        )

    def _write_line(self) -> None:
        if self._said == self._done:
            return
        elapsed = self._clock() - self._begun
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._done:,}/{self._total:,}", f"{_short(elapsed)} elapsed"]
        begun, done, total = map(self._work, (self._initial, self._done, self._total))
        if elapsed > 0 and begun < done < total:
            left = elapsed * (total - done) / (done - begun)
            parts.append(f"{_short(left)} left")
        parts += [f"{rate:,.4g}/s"] + [self._facts] * bool(self._facts)
        print(f"{self._label}: {', '.join(parts)}", file=self._stream, flush=True)
        self._said, self._said_at = self._done, self._clock()


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
