"""Preemption: SIGTERM is noted, and the run stops after the current step."""

from __future__ import annotations

import functools
import signal
from types import FrameType, TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class PreemptedError(Exception):
    """The run was asked to stop, and its state is saved."""


class PreemptionGuard:
    """A context manager that notes SIGTERM instead of ending the process.

    All processes must stop after the same step, whichever of them got the signal. JAX
    has a service for this, but Orbax reports old steps to it from another thread, and
    then processes disagree. So the processes agree by a reduction on the devices.
    """

    def __enter__(self) -> PreemptionGuard:
        self._requested = False
        self._asked: jax.Array | None = None
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # None: the previous handler was not installed from Python.
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def requested(self) -> bool:
        """Returns whether to stop after this step; the same on every process.

        All processes must call it after every step. With several processes a signal
        takes effect one step later, so that no host waits for the devices.
        """
        if jax.process_count() == 1:
            return self._requested
        asked, self._asked = self._asked, _any_process(self._requested)
        return asked is not None and bool(asked)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True


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
