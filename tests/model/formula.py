"""A decoder by its formulas, one row and one head at a time, in float32."""

import jax
import jax.numpy as jnp
import numpy as np


def norm(config, x, scale):
    x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps)
    weight = 1.0 + scale if config.zero_centered_norm else scale
    return x * jnp.broadcast_to(weight, x.shape)


def frequency(config, i, is_global):
    """Radians that pair i of a head turns by from one position to the next."""
    if not is_global and config.local_rope_theta is not None:
        return config.local_rope_theta ** (-2 * i / config.head_dim)
    plain = config.rope_theta ** (-2 * i / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    wavelength = 2 * np.pi / plain
    if wavelength < scaling.original_max_len / scaling.high_freq_factor:
        return plain
    if wavelength > scaling.original_max_len / scaling.low_freq_factor:
        return plain / scaling.factor
    smooth = scaling.original_max_len / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def turned(config, x_LK, positions, is_global):
    half = config.head_dim // 2
    turns = np.array([frequency(config, i, is_global) for i in range(half)])
    z = x_LK[:, :half] + 1j * x_LK[:, half:]
    z = z * np.exp(1j * positions[:, None] * turns[None])
    return jnp.concatenate([z.real, z.imag], axis=1).astype(jnp.float32)


def visible(config, batch, row, is_global):
    segments = batch.segments_BL[row]
    i, j = np.indices((len(segments), len(segments)))
    seen = j <= i
    if batch.prefix_BL is not None:
        seen |= batch.prefix_BL[row][j]
    if not is_global:
        seen &= i - j < config.sliding_window
    return seen & (segments[i] == segments[j])


def attended(config, p, x_LD, batch, row, is_global):
    positions = batch.positions_BL[row]
    mask = visible(config, batch, row, is_global)
    shared = config.num_heads // config.num_kv_heads

    def head(name, h):
        x_LK = x_LD @ p[name][:, h]
        if config.qkv_bias:
            x_LK = x_LK + p[f"{name}_bias"][h][None]
        if name == "value":
            return x_LK
        if config.qk_norm:
            x_LK = norm(config, x_LK, p[f"{name}_norm"]["scale"])
        return turned(config, x_LK, positions, is_global)

    total = jnp.zeros_like(x_LD)
    for h in range(config.num_heads):
        scale = config.query_scale or config.head_dim**-0.5
        scores = scale * head("query", h) @ head("key", h // shared).T
        if config.attention_softcap is not None:
            cap = config.attention_softcap
            scores = cap * jnp.tanh(scores / cap)
        shares = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        total += shares @ head("value", h // shared) @ p["out"][h]
    return total


def formula(config, params, batch):
    """The logits of a model of unrolled layers, row by row and head by head."""
    p, rows, batch = params["params"], [], jax.device_get(batch)
    act = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}[config.activation]
    for row in range(batch.tokens_BL.shape[0]):
        x_LD = p["embedding_VD"][batch.tokens_BL[row]]
        x_LD = x_LD * config.embed_dim**0.5 if config.scale_embedding else x_LD
        for i in range(config.num_layers):
            q = p[f"layer_{i}"]
            is_global = (
                config.sliding_window is None or not (i + 1) % config.global_every
            )
            y_LD = norm(config, x_LD, q["attention_norm"]["scale"])
            y_LD = attended(config, q["attention"], y_LD, batch, row, is_global)
            if config.post_norms:
                y_LD = norm(config, y_LD, q["attention_post_norm"]["scale"])
            x_LD = x_LD + y_LD
            y_LD = norm(config, x_LD, q["mlp_norm"]["scale"])
            y_LD = act(y_LD @ q["mlp"]["gate"]) * (y_LD @ q["mlp"]["up"])
            y_LD = y_LD @ q["mlp"]["down"]
            if config.post_norms:
                y_LD = norm(config, y_LD, q["mlp_post_norm"]["scale"])
            x_LD = x_LD + y_LD
        x_LD = norm(config, x_LD, p["final_norm"]["scale"])
        logits = x_LD @ p.get("unembedding_VD", p["embedding_VD"]).T
        cap = config.logit_softcap
        rows.append(logits if cap is None else cap * jnp.tanh(logits / cap))
    return jnp.stack(rows)
