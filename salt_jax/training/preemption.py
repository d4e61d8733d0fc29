"""Agreement of all processes to stop after the same step."""

from __future__ import annotations

from salt_jax.mesh.agreement import Agreement
from salt_jax.training.stop_signals import PreemptedError, StopSignals


class PreemptionGuard:
    """Tells after which step to stop, because a process got a signal.

    All processes must stop after the same step, whichever of them got the signal. JAX
    has a service for this, but Orbax reports old steps to it from another thread, and
    then processes disagree. So the processes agree by a reduction on the devices.
    """

    def __init__(self, signals: StopSignals):
        """Reads the signals of this process from `signals`."""
        self._signals, self._agreement = signals, Agreement()

    def begin_steps(self) -> None:
        """Saves when a signal comes from now on; until now one ends the process."""
        self._signals.begin_steps()

    def requested(self) -> bool:
        """Returns whether to stop after this step; the same on every process.

        All processes must call it after every step. With several processes a signal
        takes effect one step later, so that no host waits for the devices.
        """
        (stop,) = self._agreement.any(self._signals.requested)
        return stop

    def stopped(self, step: int) -> PreemptedError:
        """Returns the error that says that the run stopped and was saved at `step`."""
        line = f"Stopped at step {step}, and saved: the same command resumes."
        return PreemptedError(line, self._signals.exit_code)
