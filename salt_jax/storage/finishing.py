"""The part of a save that goes on in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Finishing(threading.Thread):
    """Waits for a save in the background, and keeps its error."""

    def __init__(self, step: int, finish: Callable[[int], None]):
        super().__init__(name=f"saving step {step}")
        self.step, self._finish = step, finish
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._finish(self.step)
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Waits for the end, and raises the error if there was one."""
        self.join()
        if self._error is not None:
            raise self._error
