"""Being asked to stop: SIGTERM is noted, and acted on between two steps."""

from __future__ import annotations

import functools
import signal
from types import FrameType, TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class PreemptedError(Exception):
    """The run was asked to stop, and has saved what it had."""


class PreemptionGuard:
    """Notes SIGTERM while it is entered, instead of dying of it.

    Several processes must stop after the same step, whichever of them was asked. JAX
    has a service for that, but Orbax tells it of old steps from a thread of its own,
    and then processes disagree. So they ask each other, on the devices.
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
        # None is a handler that is not Python's.
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def requested(self) -> bool:
        """Returns whether to stop after this step: the same answer on every process.

        With several, all must call it after each step. It answers what they asked after
        the step before, so that no host waits for the devices.
        """
        if jax.process_count() == 1:
            return self._requested
        asked, self._asked = self._asked, _any_process(self._requested)
        return asked is not None and bool(asked)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True


def _any_process(requested: bool) -> jax.Array:
    """Returns, on every process, whether any has `requested`; not waited for."""
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
