"""The facts of parameters that no model declares."""

import types

import jax
from flax import linen as nn


def facts_of(params):
    """Returns what an optimizer has to know of `params`, boxed or not."""

    def facts(path, _):
        keys = [key.key for key in path]
        is_vector = "scale" in keys[-1] or "bias" in keys[-1]
        return types.SimpleNamespace(
            is_matrix=not is_vector, is_stacked="layers" in keys
        )

    is_box = lambda node: isinstance(node, nn.Partitioned)
    return jax.tree_util.tree_map_with_path(facts, params, is_leaf=is_box)
