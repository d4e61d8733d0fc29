"""A model as it is read one token at a time: its layers apart, its length whole."""

from __future__ import annotations

import dataclasses
import functools

import jax

from salt_jax.model.transformer import (
    Params,
    Transformer,
    abstract_params,
    unstack_layers,
)


@functools.cache
def decoding_model(model: Transformer) -> Transformer:
    """Returns `model` as `decoding_params` are read."""
    partitioning = model.partitioning
    # A single token cannot be split.
    rules = dataclasses.replace(partitioning.rules, length=None)
    return model.clone(
        config=dataclasses.replace(model.config, scan_layers=False, remat="none"),
        partitioning=dataclasses.replace(partitioning, rules=rules),
    )


def decoding_params(model: Transformer, params: Params) -> Params:
    """Returns the parameters of `model` for `decoding_model`, each where it is used.

    A scan over layers would copy all of them for each token, to read them one by one.
    """
    if not model.config.scan_layers:
        return params
    return _unstack(model, params)


@functools.partial(jax.jit, static_argnames="model")
def _unstack(model: Transformer, params: Params) -> Params:
    like = abstract_params(decoding_model(model))
    return jax.tree.map(
        lambda x, like: jax.lax.with_sharding_constraint(x, like.sharding),
        unstack_layers(params, model.config.num_layers),
        like,
    )
