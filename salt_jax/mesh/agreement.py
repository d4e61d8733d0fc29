"""What several processes agree on, without any of them waiting for the devices."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Agreement:
    """Flags of which all processes learn, at the same call, whether any raised them.

    The answer of several processes is that of the call before, which has been reduced
    on the devices meanwhile.
    """

    def __init__(self) -> None:
        self._asked: jax.Array | None = None

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Returns of each flag whether any process has raised it.

        All processes must call it equally often, with as many flags.
        """
        if jax.process_count() == 1:
            return flags
        asked, self._asked = self._asked, _any_process(flags)
        if asked is None:
            return (False,) * len(flags)
        return tuple(bool(flag) for flag in jax.device_get(asked))


def of_process_0(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the numbers of process 0; all processes must call it, and wait.

    Sums on hosts of two kinds may differ in the last bit, and what is decided by them
    must not.
    """
    if jax.process_count() == 1:
        return dict(values)
    # As bytes, because JAX rounds float64 to float32.
    sent = np.array(list(values.values()), np.float64).view(np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)
    return dict(zip(values, received.view(np.float64).tolist(), strict=True))


def _any_process(flags: tuple[bool, ...]) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()), ("all",))
    by_device = jax.make_array_from_callback(
        (mesh.size, len(flags)),
        NamedSharding(mesh, PartitionSpec("all")),
        lambda _: np.array([flags]),
    )
    return _any(by_device, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.any(flags, axis=0), everywhere)
