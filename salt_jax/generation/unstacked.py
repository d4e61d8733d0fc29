"""Adapts a model for decoding: unstacked layers, and no split along the length."""

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
    """Returns `model` in the form that takes `decoding_params`."""
    partitioning = model.partitioning
    # A single token cannot be split along the length axis.
    rules = dataclasses.replace(partitioning.rules, length=None)
    return model.clone(
        config=dataclasses.replace(model.config, scan_layers=False, remat="none"),
        partitioning=dataclasses.replace(partitioning, rules=rules),
    )


def decoding_params(model: Transformer, params: Params) -> Params:
    """Returns the parameters of `model`, unstacked for `decoding_model`.

    A scan over stacked layers would copy each layer's parameters for every token.
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
