"""Checks for tests, run by processes of their own: what is wrong, crashes or hangs."""

import dataclasses
import os
import time

from salt_jax.checkup.child import DEVICE
from salt_jax.checkup.values import at_most, measured
from salt_jax.files.records import write_record


def found(platform):
    """A look at devices that starts no JAX."""

    def look(setting):
        fields = {"platform": platform, "kind": f"a {platform}", "count": 1}
        write_record(setting.folder / DEVICE, fields)
        yield measured("devices", 1.0)

    return look


tpu, cpu = found("tpu"), found("cpu")


def no_device(setting):
    raise RuntimeError("the device is in use")
    yield


def right(setting):
    yield at_most("a value", 1.0, 2.0)


def wrong(setting):
    yield at_most("a value", 3.0, 2.0, "so it was chosen")


def not_a_number(setting):
    yield at_most("a value", float("nan"), 2.0)


def nothing(setting):
    yield from ()


def raises(setting):
    yield measured("until then", 1.0)
    raise ValueError("out of patience")


def killed(setting):
    yield measured("until then", 1.0)
    print("the last words", flush=True)
    os.kill(os.getpid(), 9)


def hangs(setting):
    yield measured("until then", 1.0)
    (setting.folder / "pid").write_text(str(os.getpid()))
    time.sleep(1000)


def loss_of_an_oracle_off_by_one_percent(setting):
    """The real check of the dense loss, against numbers that are 1 % too large."""
    from salt_jax.checkup import loss_checks, oracles

    blend = oracles.blend

    def off(*arguments, **options):
        right = blend(*arguments, **options)
        values = {name: 1.01 * x for name, x in right.values.items()}
        return dataclasses.replace(
            right, values=values, embedding_VD=1.01 * right.embedding_VD
        )

    oracles.blend = off
    loss_checks.KD_WEIGHTS = (0.667,)
    loss_checks._losses = lambda: {"dense": loss_checks._dense}
    yield from loss_checks.loss(setting)


def attention_by_a_kernel_off_by_one_percent(setting):
    """The real check of attention, of a kernel whose values are 1 % too large."""
    from salt_jax.checkup import attention_checks
    from salt_jax.model import attention

    xla = attention.xla
    attention.xla = lambda *arguments, **parts: 1.01 * xla(*arguments, **parts)
    cases = attention_checks.cases
    attention_checks.cases = lambda sizes: {"causal": cases(sizes)["causal"]}
    yield from attention_checks.attention(setting)
