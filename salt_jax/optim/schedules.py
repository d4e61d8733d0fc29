"""Schedules of the learning rate and of kd_weight, as frozen values.

A schedule maps the step, the number of updates so far, to a float32 scalar. The step is
a Python int or a traced array. Your own schedule is any frozen dataclass that can be
called like these.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Protocol

import jax
import jax.numpy as jnp


class Schedule(Protocol):
    """The interface of a schedule."""

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Returns the value at `step`, a float32 scalar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """`value` at every step."""

    value: float

    def __post_init__(self):
        _check_values(self, "value")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        return jnp.full(jnp.shape(step), self.value, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """`value` before `end_step`, then zero."""

    value: float
    end_step: int

    def __post_init__(self):
        _check_values(self, "value")
        _check_steps(self, "end_step")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        return jnp.where(jnp.asarray(step) < self.end_step, _f32(self.value), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearDecay:
    """`start` until `begin_step`, then linear to `end` at `end_step`."""

    start: float
    end: float
    begin_step: int
    end_step: int

    def __post_init__(self):
        _check_values(self, "start", "end")
        _check_steps(self, "begin_step", "end_step")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        left = 1.0 - _done(step, self.begin_step, self.end_step)
        return self.end + (self.start - self.end) * left


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRatioDecay:
    """A weight w whose ratio w / (1 - w) decays linearly to zero.

    With r = start / (1 - start) and `left` the remaining share of the interval,
    w = r left / (1 + r left). It falls more slowly than `LinearDecay` at first, faster
    at the end.
    """

    start: float
    begin_step: int
    end_step: int

    def __post_init__(self):
        if not 0.0 <= self.start < 1.0:
            raise ValueError(
                f"LinearRatioDecay.start must be at least 0 and below 1, got "
                f"{self.start}: the ratio w / (1 - w) has no value at 1."
            )
        _check_steps(self, "begin_step", "end_step")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        left = 1.0 - _done(step, self.begin_step, self.end_step)
        ratio = self.start / (1.0 - self.start) * left
        return ratio / (1.0 + ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up from zero to `peak`, then half a cosine to `end`.

    It stays at `end` from `total_steps` on.
    """

    peak: float
    end: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self):
        _check_values(self, "peak", "end")
        _check_steps(self, "warmup_steps", "total_steps")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        done = _done(step, self.warmup_steps, self.total_steps)
        cosine = 0.5 * (1.0 + jnp.cos(math.pi * done))
        down = self.end + (self.peak - self.end) * cosine
        return _after_warmup(step, self.peak, self.warmup_steps, down)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupLinear:
    """Linear warm-up from zero to `peak`, then linear to `end`.

    It stays at `end` from `total_steps` on. With `end` equal to `peak` it is a warm-up
    to a constant.
    """

    peak: float
    end: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self):
        _check_values(self, "peak", "end")
        _check_steps(self, "warmup_steps", "total_steps")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        left = 1.0 - _done(step, self.warmup_steps, self.total_steps)
        down = self.end + (self.peak - self.end) * left
        return _after_warmup(step, self.peak, self.warmup_steps, down)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Linear warm-up from zero to `peak`, `peak` to `decay_step`, then linear to `end`.

    It stays at `end` from `total_steps` on. Of a learning rate: a run can go on from
    before `decay_step` to any number of steps (WSD, arXiv 2404.06395).
    """

    peak: float
    end: float
    warmup_steps: int
    decay_step: int
    total_steps: int

    def __post_init__(self):
        _check_values(self, "peak", "end")
        _check_steps(self, "warmup_steps", "decay_step", "total_steps")

    def __call__(self, step: jax.Array | int) -> jax.Array:
        left = 1.0 - _done(step, self.decay_step, self.total_steps)
        down = self.end + (self.peak - self.end) * left
        return _after_warmup(step, self.peak, self.warmup_steps, down)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupInverseSqrt:
    """Linear warm-up from zero to `peak`, then peak * sqrt(warmup_steps / step).

    Equation 3 of Vaswani et al. 2017 (arXiv 1706.03762), parametrized by its peak.
    """

    peak: float
    warmup_steps: int

    def __post_init__(self):
        _check_values(self, "peak")
        if self.warmup_steps < 1:
            raise ValueError(
                f"WarmupInverseSqrt.warmup_steps must be positive, got "
                f"{self.warmup_steps}: the value falls as sqrt(warmup_steps / step)."
            )

    def __call__(self, step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step).astype(jnp.float32)
        decay = jnp.sqrt(self.warmup_steps / jnp.maximum(step, self.warmup_steps))
        return self.peak * _warmed(step, self.warmup_steps) * decay


def _f32(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _done(step: jax.Array | int, begin_step: int, end_step: int) -> jax.Array:
    """Returns the elapsed share of the interval, from 0 to 1, float32."""
    # Integer subtraction: float32 is exact only up to 2 ** 24 = 16.8 million.
    past = (jnp.asarray(step) - begin_step).astype(jnp.float32)
    return jnp.clip(past / (end_step - begin_step), 0.0, 1.0)


def _warmed(step: jax.Array | int, warmup_steps: int) -> jax.Array:
    """Returns the elapsed share of the warm-up, 1 if there is none, float32."""
    step = jnp.asarray(step).astype(jnp.float32)
    return jnp.minimum(step / max(warmup_steps, 1), 1.0)


def _after_warmup(
    step: jax.Array | int, peak: float, warmup_steps: int, value: jax.Array
) -> jax.Array:
    """Returns `value`; during the warm-up, the line from zero to `peak`."""
    up = peak * _warmed(step, warmup_steps)
    return jnp.where(jnp.asarray(step) < warmup_steps, up, value)


def _check_values(schedule: Schedule, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(
                f"{type(schedule).__name__}.{name} must be finite and not negative, "
                f"got {value}."
            )


def _check_steps(schedule: Schedule, *names: str) -> None:
    """Refuses steps below zero, and an interval that ends before it begins."""
    label = type(schedule).__name__
    steps = [(name, getattr(schedule, name)) for name in names]
    first, begin = steps[0]
    if begin < 0:
        raise ValueError(f"{label}.{first} must not be negative, got {begin}.")
    for (before, begin), (name, end) in itertools.pairwise(steps):
        if end <= begin:
            raise ValueError(
                f"{label}.{name}={end} must be greater than {before}={begin}."
            )
