"""What the device is, and the rates that it reaches on the simplest work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from salt_jax.checkup.child import DEVICE
from salt_jax.checkup.sizes import sizes_of
from salt_jax.checkup.values import Line, Setting, aim, measured, undone
from salt_jax.files.records import read_record, write_record
from salt_jax.mesh.chips import chip_of
from salt_jax.mesh.memory import GIB
from salt_jax.mesh.partitioning import MeshShape

RATES = "rates.json"


def device(setting: Setting) -> Iterator[Line]:
    """Yields what JAX finds here, the rate of products and that of memory."""
    first = jax.devices()[0]
    found = {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.local_device_count(),
    }
    write_record(setting.folder / DEVICE, found)
    yield measured("devices", f"{found['count']} x {found['kind']}")
    stats = first.memory_stats() or {}
    if "bytes_limit" in stats:
        yield measured("memory that JAX may use", stats["bytes_limit"] / GIB, "GiB")
    else:
        yield undone("memory that JAX may use", f"a {first.platform} does not say")
    if first.platform == "cpu" and not setting.small:
        return  # To be refused: there is nothing to measure.
    chip = chip_of(first.device_kind)
    if chip is None:
        why = f"{first.device_kind!r} is not in salt_jax/mesh/chips.py"
        yield undone(
            "published rates", f"{why}: shares of peak are of what is measured"
        )
    sizes = sizes_of(setting)
    flops, memory = _matmul_rate(sizes.matrix), _copy_rate(sizes.copy_bytes)
    rates = {"flops_per_second": flops, "memory_bytes_per_second": memory}
    write_record(setting.folder / RATES, rates)
    yield measured("bfloat16 products", flops / 1e12, "TFLOP/s")
    yield measured("memory, read and written", memory / 1e9, "GB/s")
    if found["count"] > 1:
        sent = _sum_rate(sizes.copy_bytes // 4) / 1e9
        why = "of a sum over all devices, as a ring would send it"
        yield measured("sent by each device, one direction", sent, "GB/s", why)
    if chip is not None:
        for what, rate, peak, low in (
            ("bfloat16 products", flops, chip.flops_per_second, 0.7),
            ("memory", memory, chip.memory_bytes_per_second, 0.6),
        ):
            yield aim(
                f"{what}, share of the published peak",
                rate / peak,
                low,
                1.05,
                "one large operation; less means a chip that is slowed down or shared, "
                "more a wrong entry in chips.py",
            )


def peak_of(setting: Setting) -> tuple[float, str]:
    """Returns the peak FLOPs per second of a device, and where it is from."""
    chip = chip_of(setting.device.kind)
    if chip is not None:
        return chip.flops_per_second, "the published peak"
    return rates_in(setting)["flops_per_second"], "the measured rate of large products"


def rates_in(setting: Setting) -> dict[str, float]:
    """Returns the rates that `device` has measured."""
    path = setting.folder / RATES
    return read_record(path, dict[str, float], remedy="run the check again")


def seconds_of(work: Callable[[], Any], repeats: int = 5) -> float:
    """Returns the median seconds of `work`, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(work())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _matmul_rate(width: int, products: int = 8) -> float:
    """Returns the FLOPs per second of products that follow one another."""
    x = jax.random.normal(jax.random.key(0), (width, width), jnp.bfloat16)

    @jax.jit
    def chain(x: jax.Array, y: jax.Array) -> jax.Array:
        step = lambda _, y: (x @ y) * jnp.bfloat16(width**-0.5)
        return jax.lax.fori_loop(0, products, step, y)

    return 2 * width**3 * products / seconds_of(lambda: chain(x, x))


def _copy_rate(size: int, copies: int = 8) -> float:
    """Returns the bytes per second read and written by additions in place."""
    x = jnp.zeros(size // 4, jnp.float32)

    @jax.jit
    def add(x: jax.Array) -> jax.Array:
        # The shift keeps XLA from fusing additions into one.
        return jax.lax.fori_loop(0, copies, lambda i, x: jnp.roll(x, 1) + 1.0, x)

    return 2 * size * copies / seconds_of(lambda: add(x))


def _sum_rate(size: int) -> float:
    """Returns the bytes per second that each device sends to sum `size` bytes."""
    mesh = MeshShape().build(jax.local_devices())
    split, whole = PartitionSpec("data"), PartitionSpec()
    count = mesh.size
    x = jax.device_put(
        jnp.zeros((count, size // 4), jnp.float32), NamedSharding(mesh, split)
    )
    total = jax.jit(
        jax.shard_map(
            lambda x: jax.lax.psum(x, "data"),
            mesh=mesh,
            in_specs=split,
            out_specs=whole,
        )
    )
    return 2 * (count - 1) / count * size / seconds_of(lambda: total(x))
