"""A guard that drops an update whose loss or gradient is out of bounds.

A dropped update leaves the parameters and the moments as they were. Its step still
counts, so schedules go on and the next step reads the next batch.

Dimensions: W the window of recent updates.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class GuardState:
    """What a guard remembers; a part of the train state, so that resuming is exact."""

    losses_W: jax.Array  # float32, of the last updates that were kept, as a ring.
    grad_norms_W: jax.Array
    begin_step: jax.Array  # Of the stage of these updates, int32.
    kept: jax.Array  # Updates kept in that stage.
    dropped: jax.Array  # Updates dropped since the run began.
    dropped_in_a_row: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateGuard:
    """Drops updates whose loss or gradient norm is not finite or exceeds a bound.

    With `sigmas`, a bound follows the run: the mean of the last `window` updates that
    were kept, plus `sigmas` standard deviations, for the loss and for the norm. It
    holds once half a window is kept, and begins anew with each stage, whose loss is
    another. OLMo-core and Levanter drop by 6 deviations of 128 updates.
    """

    max_loss: float | None = None
    max_grad_norm: float | None = None  # Before clipping.
    sigmas: float | None = None
    window: int = 128
    max_in_a_row: int = 10  # As many dropped updates in a row end the run.

    def __post_init__(self):
        for name in ("max_loss", "max_grad_norm", "sigmas"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(
                    f"UpdateGuard.{name} must be positive, or None for no such bound, "
                    f"got {value}."
                )
        for name, least in (("window", 4), ("max_in_a_row", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"UpdateGuard.{name} must be at least {least}, got "
                    f"{getattr(self, name)}."
                )

    def init(self) -> GuardState:
        """Returns the state before the first step."""
        ring_W, zero = jnp.zeros((self.window,)), jnp.zeros((), jnp.int32)
        return GuardState(ring_W, ring_W, zero, zero, zero, zero)

    def judge(
        self,
        state: GuardState,
        loss: jax.Array,
        grad_norm: jax.Array,
        *,
        begin_step: int,
    ) -> tuple[jax.Array, GuardState]:
        """Returns whether to keep an update, and the next state.

        Args:
          state: The state after the update before.
          loss: The loss of the update.
          grad_norm: The norm of its gradient, before clipping.
          begin_step: The step at which the stage of the update begins.
        """
        kept = jnp.where(state.begin_step == begin_step, state.kept, 0)
        loss_is_good = self._is_good(loss, self.max_loss, state.losses_W, kept)
        norm_is_good = self._is_good(
            grad_norm, self.max_grad_norm, state.grad_norms_W, kept
        )
        keep = loss_is_good & norm_is_good
        place = kept % self.window

        def add(ring_W: jax.Array, value: jax.Array) -> jax.Array:
            value = jnp.where(keep, value, ring_W[place])
            return ring_W.at[place].set(value.astype(ring_W.dtype))

        return keep, GuardState(
            losses_W=add(state.losses_W, loss),
            grad_norms_W=add(state.grad_norms_W, grad_norm),
            begin_step=jnp.full_like(state.begin_step, begin_step),
            kept=kept + keep,
            dropped=state.dropped + ~keep,
            dropped_in_a_row=jnp.where(keep, 0, state.dropped_in_a_row + 1),
        )

    def _is_good(
        self, value: jax.Array, most: float | None, ring_W: jax.Array, kept: jax.Array
    ) -> jax.Array:
        good = jnp.isfinite(value)
        if most is not None:
            good &= value <= most
        if self.sigmas is None:
            return good
        count = jnp.minimum(kept, self.window)
        filled_W = jnp.arange(self.window) < count
        mean = jnp.mean(ring_W, where=filled_W)
        sigma = jnp.std(ring_W, where=filled_W, ddof=1)
        is_usual = value <= mean + self.sigmas * sigma
        return good & (is_usual | (count < self.window // 2))
