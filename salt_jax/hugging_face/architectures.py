"""The decoder classes of transformers that this model can express."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from salt_jax.model.config import TransformerConfig

Config = Mapping[str, Any]  # A config.json.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder class of transformers: what all models of the class share."""

    name: str
    model_type: str
    # Fields of `TransformerConfig` with a fixed value in the class.
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    is_gemma: bool = False  # Zero-centered norms and a scaled embedding.
    # Groups of config.json fields that the class reads.
    has_windows: bool = False
    has_softcaps: bool = False
    has_query_scale: bool = False
    wants_whole_heads: bool = False  # num_heads must divide embed_dim.
    defaults: Config  # The values of fields that config.json leaves out.
    only: Config  # Fields that must have this value or be absent.


_PLAIN: Config = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
_GEMMA: Config = {
    "hidden_act": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 10_000.0,
    "head_dim": 256,
}
_ANY_ONLY: Config = {
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "use_bidirectional_attention": False,
    "is_encoder_decoder": False,
    "quantization_config": None,
    "auto_map": None,  # Custom modeling code.
}

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="LlamaForCausalLM",
            model_type="llama",
            wants_whole_heads=True,
            defaults=_PLAIN,
            only=_ANY_ONLY,
        ),
        Architecture(
            name="Qwen2ForCausalLM",
            model_type="qwen2",
            qkv_bias=True,
            has_windows=True,
            defaults={**_PLAIN, "sliding_window": 4096},
            # The class ignores this field: query, key and value always have a bias.
            only={k: v for k, v in _ANY_ONLY.items() if k != "attention_bias"},
        ),
        Architecture(
            name="Qwen3ForCausalLM",
            model_type="qwen3",
            qk_norm=True,
            has_windows=True,
            defaults={**_PLAIN, "head_dim": 128, "sliding_window": 4096},
            only=_ANY_ONLY,
        ),
        Architecture(
            name="GemmaForCausalLM",
            model_type="gemma",
            is_gemma=True,
            defaults=_GEMMA,
            only=_ANY_ONLY,
        ),
        Architecture(
            name="Gemma2ForCausalLM",
            model_type="gemma2",
            is_gemma=True,
            post_norms=True,
            has_windows=True,
            has_softcaps=True,
            has_query_scale=True,
            wants_whole_heads=True,
            defaults={
                **_GEMMA,
                "final_logit_softcapping": 30.0,
                "attn_logit_softcapping": 50.0,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "sliding_window_pattern": 2,
            },
            only=_ANY_ONLY,
        ),
        Architecture(
            name="Gemma3ForCausalLM",
            model_type="gemma3_text",
            is_gemma=True,
            post_norms=True,
            qk_norm=True,
            has_windows=True,
            has_softcaps=True,
            has_query_scale=True,
            wants_whole_heads=True,
            defaults={
                **_GEMMA,
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "sliding_window_pattern": 6,
            },
            # The class reads this field but does not apply it.
            only={**_ANY_ONLY, "attn_logit_softcapping": None},
        ),
    )
}


def architecture_in(about: Config) -> Architecture:
    """Returns the architecture that a config.json names, itself or its base model.

    Raises:
      ValueError: it names none, or one that is not in `ARCHITECTURES`.
    """
    names = about.get("architectures")
    by_type = {x.model_type: name for name, x in ARCHITECTURES.items()}
    with_head = by_type.get(str(about.get("model_type")))
    if not names or names == [_base(with_head)]:
        names = [with_head or about.get("model_type")]
    if not isinstance(names, list) or names[1:] or str(names[0]) not in ARCHITECTURES:
        raise ValueError(
            f"config.json has architectures={names!r}: salt_jax supports "
            f"{', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[names[0]]


def _base(name: str | None) -> str | None:
    """Returns the name of the class without a head, such as "LlamaModel"."""
    if name == "Gemma3ForCausalLM":
        return "Gemma3TextModel"
    return name and name.replace("ForCausalLM", "Model")


def architecture_of(model: TransformerConfig) -> Architecture:
    """Returns the architecture that computes the same function as `model`.

    Raises:
      ValueError: no architecture does; the message names the first field that differs.
    """
    is_scaled_here = model.scale_embedding and model.tied_embedding
    if model.post_norms:
        name = "Gemma3ForCausalLM" if model.qk_norm else "Gemma2ForCausalLM"
    elif model.qk_norm:
        name = "Qwen3ForCausalLM"
    elif model.qkv_bias:
        name = "Qwen2ForCausalLM"
    else:
        name = "GemmaForCausalLM" if is_scaled_here else "LlamaForCausalLM"
    architecture = ARCHITECTURES[name]
    unsupported = {
        "qkv_bias": model.qkv_bias and not architecture.qkv_bias,
        # An untied embedding can absorb the scale; a tied one cannot.
        "scale_embedding": architecture.is_gemma != model.scale_embedding
        and model.tied_embedding,
        "logit_softcap": model.logit_softcap and not architecture.has_softcaps,
        "attention_softcap": model.attention_softcap
        and (
            not architecture.has_softcaps
            or "attn_logit_softcapping" in architecture.only
        ),
        "query_scale": model.query_scale and not architecture.has_query_scale,
        "sliding_window": model.sliding_window and not architecture.has_windows,
        "local_rope_theta": model.local_rope_theta and name != "Gemma3ForCausalLM",
        # The class never scales the positions of local layers.
        "rope_scaling": model.rope_scaling
        and model.sliding_window
        and not model.local_rope_theta
        and name == "Gemma3ForCausalLM",
        "num_heads": architecture.wants_whole_heads
        and model.embed_dim % model.num_heads,
    }
    for field, is_unsupported in unsupported.items():
        if is_unsupported:
            raise ValueError(
                f"transformers has no class for this model; the closest, {name}, lacks "
                f"{field}={getattr(model, field)!r}. Use the model as an export of "
                "salt_jax."
            )
    return architecture
