"""What goes on in the background of a save."""

from __future__ import annotations

import threading
from collections.abc import Callable

import orbax.checkpoint as ocp
from etils import epath

from salt_jax.files.writing import is_local


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


def background_writer(directory: epath.Path) -> ocp.AsyncCheckpointer:
    """Returns Orbax's writer: a rename completes a save, in buckets a last object."""
    mode = ocp.options.AtomicityMode
    options = ocp.options.AtomicityOptions(
        mode=mode.ATOMIC_RENAME if is_local(directory) else mode.COMMIT_FILE
    )
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(atomicity_options=options)
        ),
        atomicity_options=options,
    )
