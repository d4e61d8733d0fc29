"""The shape of a decoder, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

ACTIVATIONS = ("gelu", "silu")
ATTENTIONS = ("auto", "reference", "splash", "cudnn")
DTYPES = ("bfloat16", "float32")
# How a program computes, not what: a checkpoint may be read with others.
COMPUTE_FIELDS = ("attention", "dtype", "remat")
REMAT_POLICIES = ("none", "full", "save_dots", "save_dots_without_batch")
ROPE_SCALINGS = ("linear", "llama3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions are slowed down for texts longer than those learnt from.

    "linear" divides every frequency by `factor` (Chen et al., arXiv 2306.15595).
    "llama3" divides those that turn less than `low_freq_factor` times within
    `original_max_len` tokens, leaves those that turn more than `high_freq_factor`
    times, and goes from one to the other between them.
    """

    kind: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_len: int | None = None  # In tokens.

    def __post_init__(self):
        _check_one_of("RopeScaling.kind", self.kind, ROPE_SCALINGS)
        if self.factor <= 0:
            raise ValueError(f"RopeScaling.factor must be positive, got {self.factor}.")
        low, high = self.low_freq_factor, self.high_freq_factor
        others = (low, high, self.original_max_len)
        if self.kind == "linear" and others != (None, None, None):
            raise ValueError(
                f"RopeScaling.kind='linear' has a factor and nothing else, got {self}."
            )
        if self.kind == "llama3" and (
            low is None
            or high is None
            or not 0 < low < high
            or (self.original_max_len or 0) < 1
        ):
            raise ValueError(
                "RopeScaling.kind='llama3' needs 0 < low_freq_factor < "
                f"high_freq_factor and an original_max_len, got {self}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder with RMSNorm, rotary positions and a gated feed-forward."""

    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int  # Equal to num_heads: multi-head; 1: multi-query.
    head_dim: int
    mlp_dim: int
    activation: str = "gelu"
    tied_embedding: bool = True
    scale_embedding: bool = True  # Inputs times sqrt(embed_dim), as Gemma does.
    logit_softcap: float | None = None
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    zero_centered_norm: bool = False  # A scale is stored as w and applied as 1 + w.
    post_norms: bool = False  # What attention and feed-forward give is normed too.
    qkv_bias: bool = False
    qk_norm: bool = False  # Queries and keys are normed, head by head.
    query_scale: float | None = None  # Of queries; None: head_dim ** -0.5.
    attention_softcap: float | None = None
    # A token of most layers sees so many, itself included; one of every
    # `global_every`-th layer sees all.
    sliding_window: int | None = None
    global_every: int = 1
    # In layers with the window in place of rope_theta, and of rope_scaling.
    local_rope_theta: float | None = None
    dtype: str = "bfloat16"  # Of activations; parameters are float32.
    # What the backward pass computes again. "save_dots": no product, nor attention;
    # "save_dots_without_batch": attention and no other product.
    remat: str = "full"
    attention: str = "auto"  # The kernel; "auto": the fastest of the devices.
    scan_layers: bool = True  # One compiled layer, run num_layers times.

    def __post_init__(self):
        if isinstance(self.rope_scaling, Mapping):  # As JSON has it.
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        for name in ("vocab_size", "num_layers", "embed_dim", "mlp_dim", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} does not divide "
                f"num_heads={self.num_heads}."
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even for rotary positions, got {self.head_dim}."
            )
        _check_one_of("activation", self.activation, ACTIVATIONS)
        _check_one_of("attention", self.attention, ATTENTIONS)
        _check_one_of("dtype", self.dtype, DTYPES)
        _check_one_of("remat", self.remat, REMAT_POLICIES)
        for name in ("attention_softcap", "query_scale", "local_rope_theta"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, or None, got {value}.")
        self._check_window()

    def _check_window(self) -> None:
        if self.global_every < 1:
            raise ValueError(f"global_every must be positive, got {self.global_every}.")
        if self.sliding_window is None:
            if self.global_every > 1 or self.local_rope_theta is not None:
                raise ValueError(
                    f"global_every={self.global_every} and local_rope_theta="
                    f"{self.local_rope_theta} say which layers have a window, and "
                    "there is none: set sliding_window."
                )
            return
        if self.sliding_window < 1 or self.global_every == 1:
            raise ValueError(
                f"sliding_window={self.sliding_window} must be positive, and needs "
                f"global_every above 1, got {self.global_every}: every such layer "
                "sees all, the others the window."
            )

    def differences(self, other: TransformerConfig) -> list[str]:
        """Returns the fields in which `other` is another function of its parameters."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.name not in COMPUTE_FIELDS
            and getattr(self, field.name) != getattr(other, field.name)
        ]


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}.")
