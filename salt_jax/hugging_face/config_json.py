"""Reading and writing config.json.

A field that asks for a part that this model lacks is an error. Fields that no class in
`ARCHITECTURES` reads are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_jax.hugging_face import positions
from salt_jax.hugging_face.architectures import (
    Architecture,
    Config,
    architecture_in,
    architecture_of,
)
from salt_jax.model.config import MOST_LAYERS, TransformerConfig

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
_WRITTEN_ACTIVATIONS = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
# In these fields null means "none", not the default.
_OR_NONE = ("final_logit_softcapping", "attn_logit_softcapping", "sliding_window")


def read_model(about: Config) -> TransformerConfig:
    """Returns the model that a config.json describes.

    Raises:
      ValueError: it has parts that this model lacks, or it lacks a field.
    """
    architecture = architecture_in(about)
    _check_only(architecture, about)
    fields = {**architecture.defaults, **_given(about)}
    heads = _number(fields, "num_attention_heads")
    if _number(fields, "num_hidden_layers") > MOST_LAYERS:
        raise ValueError(
            f"config.json has num_hidden_layers={fields['num_hidden_layers']:,}: "
            f"salt_jax supports up to {MOST_LAYERS:,}."
        )
    head_dim = fields.get("head_dim") or _number(fields, "hidden_size") // heads
    return TransformerConfig(
        vocab_size=_number(fields, "vocab_size"),
        num_layers=_number(fields, "num_hidden_layers"),
        embed_dim=_number(fields, "hidden_size"),
        num_heads=heads,
        num_kv_heads=fields.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        mlp_dim=_number(fields, "intermediate_size"),
        activation=_activation(architecture, fields),
        tied_embedding=fields["tie_word_embeddings"],
        scale_embedding=architecture.is_gemma,
        zero_centered_norm=architecture.is_gemma,
        post_norms=architecture.post_norms,
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        norm_eps=fields["rms_norm_eps"],
        logit_softcap=_softcap(architecture, fields, "final_logit_softcapping"),
        attention_softcap=_softcap(architecture, fields, "attn_logit_softcapping"),
        query_scale=_query_scale(architecture, fields, head_dim),
        **positions.read_positions(fields, has_windows=architecture.has_windows),
    )


def write_model(
    model: TransformerConfig,
    *,
    max_length: int,
    dtype: str,
    special_tokens: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the config.json of `model`, readable by any version of transformers.

    Args:
      model: A model that has an `architecture_of`.
      max_length: The longest text that the model was trained on, in tokens.
      dtype: The dtype of the tensors.
      special_tokens: "bos_token_id", "eos_token_id" and "pad_token_id".

    Raises:
      ValueError: no architecture matches, or config.json cannot express query_scale.
    """
    architecture = architecture_of(model)
    activation = _WRITTEN_ACTIVATIONS[model.activation]
    about: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed_dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": activation,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embedding,
        "max_position_embeddings": max_length,
        # Transformers 5 renamed it to dtype and reads both.
        "torch_dtype": dtype,
        **special_tokens,
        **positions.write_positions(
            model,
            has_windows=architecture.has_windows,
            name=architecture.name,
            max_length=max_length,
        ),
    }
    if architecture.is_gemma:
        about["hidden_activation"] = activation
    if not architecture.qkv_bias:  # The class with biases does not read the field.
        about["attention_bias"] = False
    if architecture.has_softcaps:
        about["final_logit_softcapping"] = model.logit_softcap
        about["attn_logit_softcapping"] = model.attention_softcap
    if architecture.has_query_scale:
        about["query_pre_attn_scalar"] = _written_query_scale(model)
    return about


def _given(about: Config) -> dict[str, Any]:
    """Returns the fields that are set, each under one name."""
    fields = {name: value for name, value in about.items() if value is not None}
    fields |= {name: None for name in _OR_NONE if name in about and about[name] is None}
    if "hidden_activation" in fields:
        fields["hidden_act"] = fields["hidden_activation"]
    return fields


def _check_only(architecture: Architecture, about: Config) -> None:
    for name, value in architecture.only.items():
        if about.get(name) not in (value, None):
            raise ValueError(
                f"config.json has {name}={about[name]!r}: for {architecture.name}, "
                f"salt_jax supports only {name}={value!r}."
            )


def _number(fields: Config, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"config.json has {name}={value!r}, not a positive number.")
    return value


def _activation(architecture: Architecture, fields: Config) -> str:
    name = fields["hidden_act"]
    if architecture.name == "GemmaForCausalLM" and name == "gelu":
        return "gelu"  # Gemma 1 releases say gelu and mean the tanh approximation.
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"config.json has hidden_act={name!r}: salt_jax supports "
            f"{', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _softcap(architecture: Architecture, fields: Config, name: str) -> float | None:
    return fields.get(name) if architecture.has_softcaps else None


def _query_scale(
    architecture: Architecture, fields: Config, head_dim: int
) -> float | None:
    """Returns the factor of queries; None for the usual head_dim ** -0.5."""
    if not architecture.has_query_scale:
        return None
    scalar = fields["query_pre_attn_scalar"]
    return None if scalar == head_dim else scalar**-0.5


def _written_query_scale(model: TransformerConfig) -> int:
    if model.query_scale is None:
        return model.head_dim
    scalar = round(model.query_scale**-2)
    # The field is an integer n, and transformers scales queries by n ** -0.5.
    if scalar < 1 or abs(scalar**-0.5 / model.query_scale - 1) > 1e-6:
        raise ValueError(
            f"query_scale={model.query_scale!r} is not n ** -0.5 for an integer n, "
            "and config.json can only say n."
        )
    return scalar
