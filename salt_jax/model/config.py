"""The shape of a decoder, as one value."""

from __future__ import annotations

import dataclasses

ACTIVATIONS = ("gelu", "silu")
ATTENTIONS = ("auto", "reference", "splash", "cudnn")
DTYPES = ("bfloat16", "float32")
# How a program computes, not what: a checkpoint may be read with others.
COMPUTE_FIELDS = ("attention", "dtype", "remat")
REMAT_POLICIES = ("none", "full", "save_dots", "save_dots_without_batch")


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
    norm_eps: float = 1e-6
    dtype: str = "bfloat16"  # Of activations; parameters are float32.
    # What the backward pass computes again. "save_dots": no product, nor attention;
    # "save_dots_without_batch": attention and no other product.
    remat: str = "full"
    attention: str = "auto"  # The kernel; "auto": the fastest of the devices.
    scan_layers: bool = True  # One compiled layer, run num_layers times.

    def __post_init__(self):
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
