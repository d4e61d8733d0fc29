"""The choice of the kernel that computes a model's attention.

splash     A flash attention for TPUs.
cudnn      A flash attention for NVIDIA GPUs, Hopper and later.
cudnn_bias The same with the mask as a bias [B, L, L], for Ampere.
xla        Plain JAX operations with a hand-written gradient, on any device.
reference  The formula, with JAX's gradient, on any device.
"""

from __future__ import annotations

import dataclasses
import re

from absl import logging

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_kernels import LANES, LONGEST_WINDOWED
from salt_jax.model.config import TransformerConfig

_PLATFORMS = {"splash": "tpu", "cudnn": "gpu", "cudnn_bias": "gpu"}
_ANYWHERE = "xla"  # The fastest kernel that every platform, model and length can use.


@dataclasses.dataclass(frozen=True)
class AttentionChoice:
    """The kernel of a model's attention, and what kept a faster one from being used."""

    name: str
    obstacle: str | None = None

    @classmethod
    def of(
        cls,
        config: TransformerConfig,
        partitioning: Partitioning,
        length: int,
        *,
        has_prefix: bool = False,
    ) -> AttentionChoice:
        """Returns the kernel that `config` names; for "auto" the fastest usable one.

        Args:
          config: The model.
          partitioning: The mesh and the rules.
          length: The length of a row.
          has_prefix: Whether rows have bidirectional prefixes.

        Raises:
          ValueError: the named kernel cannot be used for this model on these devices.
        """
        is_named = config.attention != "auto"
        own = [x for x, where in _PLATFORMS.items() if where == partitioning.platform]
        names = [config.attention] if is_named else [*own, _ANYWHERE]
        first = None  # What kept the fastest kernel from being used.
        for name in names:
            obstacle = _obstacle(name, config, partitioning, length)
            if obstacle is None and name.startswith("cudnn"):
                obstacle = _cudnn_obstacle(
                    name, config, partitioning, length, has_prefix
                )
            if obstacle is None:
                return cls(name, first)
            first = first or f"{name!r} cannot be used: {obstacle}"
        raise ValueError(f"attention={first}. Set it to 'auto' or {_ANYWHERE!r}.")

    def log(self, role: str) -> None:
        """Logs why the attention of the model in `role` is not the fastest kernel."""
        if self.obstacle is not None:
            logging.info("Attention of the %s: %r; %s.", role, self.name, self.obstacle)


def _obstacle(
    name: str, config: TransformerConfig, partitioning: Partitioning, length: int
) -> str | None:
    """Returns why the kernel `name` cannot be used; None if it can be."""
    if name not in _PLATFORMS:
        return None
    wanted, found = _PLATFORMS[name], partitioning.platform
    if found != wanted:
        return f"it needs a {wanted}, and the devices are {found}s"
    shards = partitioning.compute_size("heads")
    own, shared = config.num_heads // shards, config.num_heads // config.num_kv_heads
    if config.num_heads % shards or (own % shared and shared % own):
        return (
            f"num_heads={config.num_heads} with num_kv_heads={config.num_kv_heads} "
            f"cannot be split into {shards} shards of whole groups"
        )
    if name == "splash" and length % LANES:
        return f"the length {length} is not a multiple of {LANES}"
    if name == "splash" and config.sliding_window and length > LONGEST_WINDOWED:
        return f"with a sliding_window the length {length} exceeds {LONGEST_WINDOWED}"
    return None


def _cudnn_obstacle(
    name: str,
    config: TransformerConfig,
    partitioning: Partitioning,
    length: int,
    has_prefix: bool,
) -> str | None:
    capability, needed = partitioning.compute_capability, 9 if name == "cudnn" else 8
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < needed:
        return (
            f"it needs an NVIDIA GPU of compute capability {needed}.0, and these have "
            f"{capability or 'none'}"
        )
    if config.attention_softcap is not None:
        return f"it supports no attention_softcap, got {config.attention_softcap}"
    if name == "cudnn" and config.sliding_window is not None and has_prefix:
        return (
            f"it supports no sliding_window in a bidirectional prefix, got "
            f"{config.sliding_window}"
        )
    if length % 2:
        return f"the length {length} is odd"
    if config.dtype != "bfloat16":
        return f"it needs dtype='bfloat16', got {config.dtype!r}"
    if config.head_dim % 8 or config.head_dim > 128:
        return f"head_dim={config.head_dim} is not a multiple of 8, at most 128"
    return None
