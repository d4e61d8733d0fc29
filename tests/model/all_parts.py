"""A small model that has every part which the defaults leave out."""

import functools

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_map_with_path

from salt_jax.model.config import RopeScaling
from tests.examples import small_model

# Frequencies of a head: some are kept, one is divided, and one in between.
LLAMA3 = RopeScaling(
    kind="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_len=40,
)
ALL_PARTS = {
    "activation": "silu",
    "qkv_bias": True,
    "qk_norm": True,
    "post_norms": True,
    "zero_centered_norm": True,
    "attention_softcap": 1.5,
    "logit_softcap": 3.0,
    "query_scale": 0.7,
    "sliding_window": 4,
    "global_every": 2,
    "rope_theta": 50.0,
    "local_rope_theta": 10.0,
    "rope_scaling": LLAMA3,
}


@functools.cache
def lively_model(mesh=None, **changes):
    """A model and parameters of which each changes its logits."""
    model, params = small_model(mesh, **changes)
    return model, lively(params)


def lively(params):
    """The parameters with norms and biases that are neither zero nor one."""

    def change(path, x):
        name = keystr(path)
        if "scale" not in name and "bias" not in name:
            return x
        wave = jnp.cos(jnp.arange(x.size, dtype=x.dtype) + len(name))
        return jax.device_put(x + 0.3 * wave.reshape(x.shape), x.sharding)

    return tree_map_with_path(change, params)
