"""Rotary positions and sliding windows in config.json.

Transformers 5 has one table per kind of layer under `rope_parameters`. Earlier versions
have `rope_theta`, `rope_scaling` and, for local layers, `rope_local_base_freq`. All
versions read the older fields, so those are written; both forms are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.model.config import RopeScaling, TransformerConfig

_FULL, _WINDOW = "full_attention", "sliding_attention"
_LLAMA3 = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_len": "original_max_position_embeddings",
}


def read_positions(fields: Mapping[str, Any], *, has_windows: bool) -> dict[str, Any]:
    """Returns the fields of `TransformerConfig` about positions and windows.

    Args:
      fields: The fields of a config.json, with defaults filled in.
      has_windows: Whether the class supports sliding windows.

    Raises:
      ValueError: this model cannot express the positions or the pattern of windows.
    """
    full, window = _rope(fields)
    windows = _read_windows(fields) if has_windows else {}
    found = {
        "rope_theta": float(full["rope_theta"]),
        "rope_scaling": _read_scaling(full),
        **windows,
    }
    if windows and window is not None:
        if _read_scaling(window) is not None:
            raise ValueError(
                f"config.json scales the positions of local layers ({window}): "
                "salt_jax scales only those of global layers."
            )
        found["local_rope_theta"] = float(window["rope_theta"])
    return found


def write_positions(
    model: TransformerConfig, *, has_windows: bool, name: str, max_length: int
) -> dict[str, Any]:
    """Returns the fields of a config.json that `read_positions` reads."""
    about: dict[str, Any] = {
        "rope_theta": model.rope_theta,
        "rope_scaling": _written_scaling(model.rope_scaling),
    }
    if not has_windows:
        return about
    kinds = [
        _WINDOW if model.sliding_window and (i + 1) % model.global_every else _FULL
        for i in range(model.num_layers)
    ]
    about |= {"layer_types": kinds, "sliding_window": model.sliding_window}
    if name.startswith("Gemma"):  # Needs a window even if no layer uses it.
        about["sliding_window"] = model.sliding_window or max_length
    if name.startswith("Qwen"):
        about["use_sliding_window"] = model.sliding_window is not None
    if name.startswith("Gemma3"):
        about["sliding_window_pattern"] = model.global_every
        local = model.local_rope_theta
        about["rope_local_base_freq"] = model.rope_theta if local is None else local
    return about


def _rope(
    fields: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Returns the table of global layers, and that of local layers if there is one."""
    given = fields.get("rope_parameters") or {}
    theta = {"rope_theta": fields["rope_theta"]}
    if _FULL in given or _WINDOW in given:
        full = theta | (given.get(_FULL) or {})
        local = {"rope_theta": fields.get("rope_local_base_freq", theta["rope_theta"])}
        return full, local | (given.get(_WINDOW) or {})
    full = theta | given | (fields.get("rope_scaling") or {})
    if "rope_local_base_freq" in fields:
        return full, {"rope_theta": fields["rope_local_base_freq"]}
    return full, None


def _read_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise ValueError(
            f"config.json has partial_rotary_factor={partial!r}: salt_jax supports "
            "only 1.0."
        )
    if kind == "default":
        return None
    try:
        if kind == "linear":
            return RopeScaling(kind="linear", factor=float(rope["factor"]))
        if kind == "llama3":
            return RopeScaling(kind=kind, **{k: rope[v] for k, v in _LLAMA3.items()})
    except KeyError as error:
        raise ValueError(
            f"config.json has rope_type={kind!r} without {error.args[0]!r}."
        ) from error
    raise ValueError(
        f"config.json has rope_type={kind!r}: salt_jax supports default, linear and "
        "llama3."
    )


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    numbers = {theirs: getattr(scaling, ours) for ours, theirs in _LLAMA3.items()}
    return {"rope_type": scaling.kind, **numbers}


def _read_windows(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `sliding_window` and `global_every`; nothing if no layer is local."""
    window = fields.get("sliding_window")
    kinds = _layer_types(fields)
    if window is None or _WINDOW not in kinds:
        return {}
    full = [i for i, kind in enumerate(kinds) if kind == _FULL]
    every = full[0] + 1 if full else len(kinds) + 1
    expected = [_WINDOW if (i + 1) % every else _FULL for i in range(len(kinds))]
    if every == 1 or kinds != expected:
        raise ValueError(
            f"config.json applies sliding_window={window} to layers as "
            f"{_as_digits(kinds)} (1: local, 0: global): salt_jax supports a global "
            "layer at every k-th place only."
        )
    return {"sliding_window": window, "global_every": every}


def _layer_types(fields: Mapping[str, Any]) -> list[str]:
    """Returns the kind of each layer, with the defaults of the classes."""
    num_layers = fields["num_hidden_layers"]
    given = fields.get("layer_types")
    if given is not None:
        unknown = sorted(set(given) - {_FULL, _WINDOW})
        if unknown or len(given) != num_layers:
            raise ValueError(
                f"config.json has layer_types={given!r} for {num_layers} layers: "
                f"salt_jax supports {_FULL} and {_WINDOW}, one for each layer."
            )
        return list(given)
    if "sliding_window_pattern" in fields:
        every = fields["sliding_window_pattern"]
        return [_WINDOW if (i + 1) % every else _FULL for i in range(num_layers)]
    if not fields.get("use_sliding_window"):
        return [_FULL] * num_layers
    first = fields.get("max_window_layers", 28)
    return [_WINDOW if i >= first else _FULL for i in range(num_layers)]


def _as_digits(kinds: Sequence[str]) -> str:
    return "".join("1" if kind == _WINDOW else "0" for kind in kinds)
