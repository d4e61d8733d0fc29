"""Agreement of all processes to stop after the same step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from salt_jax.training.stop_signals import PreemptedError, StopSignals


class PreemptionGuard:
    """Tells after which step to stop, because a process got a signal.

    All processes must stop after the same step, whichever of them got the signal. JAX
    has a service for this, but Orbax reports old steps to it from another thread, and
    then processes disagree. So the processes agree by a reduction on the devices.
    """

    def __init__(self, signals: StopSignals):
        """Reads the signals of this process from `signals`."""
        self._signals = signals
        self._asked: jax.Array | None = None

    def begin_steps(self) -> None:
        """Saves when a signal comes from now on; until now one ends the process."""
        self._signals.begin_steps()

    def requested(self) -> bool:
        """Returns whether to stop after this step; the same on every process.

        All processes must call it after every step. With several processes a signal
        takes effect one step later, so that no host waits for the devices.
        """
        requested = self._signals.requested
        if jax.process_count() == 1:
            return requested
        asked, self._asked = self._asked, _any_process(requested)
        return asked is not None and bool(asked)

    def stopped(self, step: int) -> PreemptedError:
        """Returns the error that says that the run stopped and was saved at `step`."""
        line = f"Stopped at step {step}, and saved: the same command resumes."
        return PreemptedError(line, self._signals.exit_code)


def _any_process(requested: bool) -> jax.Array:
    """Returns whether any process has `requested`, without waiting for the result."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    flags = jax.make_array_from_callback(
        (mesh.size,),
        NamedSharding(mesh, PartitionSpec("all")),
        lambda _: np.array([requested]),
    )
    return _any(flags, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.any(flags), everywhere)
