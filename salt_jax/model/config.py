"""The architecture of a decoder, as one frozen value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

ACTIVATIONS = ("gelu", "silu")
ATTENTIONS = ("auto", "reference", "xla", "splash", "cudnn", "cudnn_bias")
DTYPES = ("bfloat16", "float32")
MOST_LAYERS = 10_000  # A larger number is a mistake, and would take all memory.
_LONGEST_AXIS = (1 << 31) - 1  # Of an array of JAX.
# Fields that do not change the function: a checkpoint can be read with other values.
COMPUTE_FIELDS = ("attention", "dtype", "init_outputs_by_depth", "init_scale", "remat")
REMAT_POLICIES = (
    *("none", "full", "save_attention"),
    *("save_dots", "save_dots_without_batch"),
)
ROPE_SCALINGS = ("linear", "llama3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Scaling of rotary frequencies, for texts longer than those of pretraining.

    "linear" divides every frequency by `factor` (Chen et al. 2023, arXiv 2306.15595).
    "llama3" counts the turns of a frequency within `original_max_len` tokens. It
    divides frequencies below `low_freq_factor` turns by `factor`, keeps those above
    `high_freq_factor` turns, and interpolates between them, as Llama 3.1 does.
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
                f"RopeScaling.kind='linear' takes only a factor, got {self}."
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
    """A pre-norm decoder with RMSNorm, rotary positions and a gated feed-forward."""

    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int  # num_heads: multi-head; 1: multi-query; between: grouped.
    head_dim: int
    mlp_dim: int
    activation: str = "gelu"
    tied_embedding: bool = True
    scale_embedding: bool = True  # Multiply inputs by sqrt(embed_dim), as Gemma does.
    logit_softcap: float | None = None  # Bounds logits: cap * tanh(logits / cap).
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    zero_centered_norm: bool = False  # A norm's scale w is applied as 1 + w.
    post_norms: bool = False  # Also norm the outputs of attention and feed-forward.
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm on each head's queries and keys.
    query_scale: float | None = None  # Multiplies queries; None: head_dim ** -0.5.
    attention_softcap: float | None = None  # Bounds scores: cap * tanh(scores / cap).
    # Local layers attend to the last `sliding_window` tokens, the token itself
    # included. Every `global_every`-th layer is global and attends to all of them.
    sliding_window: int | None = None
    global_every: int = 1
    # Replaces rope_theta and rope_scaling in local layers; None: all layers share them.
    local_rope_theta: float | None = None
    dtype: str = "bfloat16"  # The compute dtype; parameters are float32.
    # Rematerialization: what the backward pass recomputes. "none": nothing; "full":
    # each block; "save_attention": each block, except splash's outputs and what they
    # are computed from; "save_dots": all but matrix products and attention;
    # "save_dots_without_batch": all but the products with parameters.
    remat: str = "full"
    # The kernel, or "auto": the fastest for the devices. See `attention_choice.py`.
    attention: str = "auto"
    scan_layers: bool = True  # Compile one layer and scan it num_layers times.
    # Multiplies the standard deviation that initial matrices are drawn with. At 1 the
    # truncation leaves variance 0.774 / fan-in; 1.137 gives 1 / fan-in.
    init_scale: float = 1.0
    # Draws what a block adds to its input (2 num_layers) ** -0.5 times as large.
    init_outputs_by_depth: bool = False

    def __post_init__(self):
        if isinstance(self.rope_scaling, Mapping):  # Read from JSON.
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        sizes = ("vocab_size", "num_layers", "embed_dim", "mlp_dim", "num_heads")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        limits = dict.fromkeys(sizes, _LONGEST_AXIS) | {"num_layers": MOST_LAYERS}
        for name, limit in limits.items():
            if getattr(self, name) > limit:
                raise ValueError(
                    f"{name}={getattr(self, name):,} is more than {limit:,}."
                )
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
        if not self.init_scale > 0:
            raise ValueError(f"init_scale must be positive, got {self.init_scale}.")
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
                    f"{self.local_rope_theta} need a sliding_window: set it."
                )
            return
        if self.sliding_window < 1 or self.global_every == 1:
            raise ValueError(
                f"sliding_window={self.sliding_window} must be positive and "
                f"global_every above 1, got global_every={self.global_every}: every "
                "global_every-th layer has no window."
            )

    @property
    def output_init_scale(self) -> float:
        """The `init_scale` of matrices whose product is added to a block's input.

        2 num_layers of them are added up; divided by the root of their number, the sum
        is as large as without depth (GPT-2).
        """
        by_depth = (2 * self.num_layers) ** -0.5 if self.init_outputs_by_depth else 1.0
        return self.init_scale * by_depth

    def differences(self, other: TransformerConfig) -> list[str]:
        """Returns the names of fields that differ, without the `COMPUTE_FIELDS`."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.name not in COMPUTE_FIELDS
            and getattr(self, field.name) != getattr(other, field.name)
        ]


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}.")
