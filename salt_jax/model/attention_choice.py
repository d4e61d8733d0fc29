"""Which kernel computes a model's attention."""

from __future__ import annotations

import dataclasses

from absl import logging

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_kernels import LANES
from salt_jax.model.config import TransformerConfig

_PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}
_FASTEST = {platform: name for name, platform in _PLATFORMS.items()}


@dataclasses.dataclass(frozen=True)
class AttentionChoice:
    """The kernel that computes a model's attention, and why it is not the fastest."""

    name: str
    obstacle: str | None = None

    @classmethod
    def of(
        cls, config: TransformerConfig, partitioning: Partitioning, length: int
    ) -> AttentionChoice:
        """Returns the kernel that `config` names, or the fastest that can be used.

        Raises:
          ValueError: the one it names cannot be used here.
        """
        is_named = config.attention != "auto"
        fastest = _FASTEST.get(_platform(partitioning), "reference")
        name = config.attention if is_named else fastest
        obstacle = _obstacle(name, config, partitioning, length)
        if obstacle is None:
            return cls(name)
        if is_named:
            raise ValueError(
                f"attention={name!r} cannot be used: {obstacle}. Set it to 'auto', or "
                "to 'reference'."
            )
        return cls("reference", f"{name!r} cannot be used: {obstacle}")

    def log(self, role: str) -> None:
        """Says which model's attention is slower than its devices could be, and why."""
        if self.obstacle is not None:
            logging.info("Attention of the %s: %r; %s.", role, self.name, self.obstacle)


def _platform(partitioning: Partitioning) -> str:
    return partitioning.mesh.devices.flat[0].platform


def _obstacle(
    name: str, config: TransformerConfig, partitioning: Partitioning, length: int
) -> str | None:
    """Returns why the kernel `name` cannot be used; None if it can."""
    if name == "reference":
        return None
    wanted, found = _PLATFORMS[name], _platform(partitioning)
    if found != wanted:
        return f"it needs a {wanted}, and this is a {found}"
    if name == "splash" and config.sliding_window is not None:
        return f"it has no window, and sliding_window={config.sliding_window}"
    if name == "cudnn" and config.attention_softcap is not None:
        return (
            "it does not bound scores, and "
            f"attention_softcap={config.attention_softcap}"
        )
    shards = partitioning.compute_size("heads")
    own, shared = config.num_heads // shards, config.num_heads // config.num_kv_heads
    if config.num_heads % shards or (own % shared and shared % own):
        return (
            f"num_heads={config.num_heads} in {shards} shards do not divide with "
            f"their num_kv_heads={config.num_kv_heads}"
        )
    if name == "splash" and length % LANES:
        return f"the length {length} is not a multiple of {LANES}"
    if name == "cudnn" and length % 2:
        return f"the length {length} is odd"
    if name == "cudnn" and config.dtype != "bfloat16":
        return f"it computes in bfloat16, and dtype={config.dtype!r}"
    if name == "cudnn" and (config.head_dim % 8 or config.head_dim > 128):
        return f"head_dim={config.head_dim} is not a multiple of 8 up to 128"
    return None
