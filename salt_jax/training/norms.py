"""Norms by layer: of parameters, gradients and updates."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.model.parameters import is_in_stack
from salt_jax.model.transformer import Params
from salt_jax.training.train_step import Metrics, TrainState, Update

KINDS = ("params", "gradient", "update")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepNorms:
    """Euclidean norms at one step, and its metrics."""

    by_layer: Mapping[str, Mapping[str, float]]  # By layer, then by one of `KINDS`.
    not_finite: Mapping[str, int]  # Numbers of the gradient, by the array's name.
    metrics: Metrics


def step_norms(
    update: Update, state: TrainState, teacher_params: Params | None, batch: Batch
) -> StepNorms:
    """Returns the norms of the update of `state` on `batch`, which is not applied."""

    def measure(
        state: TrainState, teacher_params: Params | None, batch: Batch
    ) -> dict[str, Any]:
        grads, metrics = update.gradients(state, teacher_params, batch)
        updates, _ = update.optimizer.update(grads, state.opt_state, state.params)
        trees = dict(zip(KINDS, (state.params, grads, updates), strict=True))
        bad = jax.tree.map(lambda x: jnp.sum(~jnp.isfinite(x)), grads)
        squares = jax.tree_util.tree_map_with_path(_squares, trees)
        return {"squares": squares, "bad": bad, "metrics": metrics}

    everywhere = update.student.partitioning.sharding()
    measured = jax.jit(measure, out_shardings=everywhere)(state, teacher_params, batch)
    found = jax.device_get(measured)
    bad = {name: int(count) for name, count in _named(found["bad"]) if count}
    return StepNorms(
        by_layer=_by_layer(found["squares"]), not_finite=bad, metrics=found["metrics"]
    )


def _squares(path: Any, x: jax.Array) -> jax.Array:
    """Returns the sum of squares of an array, or of each layer of a stack."""
    squares = jnp.square(x.astype(jnp.float32))
    if not is_in_stack([str(getattr(key, "key", key)) for key in path]):
        return jnp.sum(squares)
    return jnp.sum(squares, axis=tuple(range(1, x.ndim)))


def _by_layer(squares: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the norms of each layer, and of each array outside of layers."""
    sums: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for kind, tree in squares.items():
        for name, values in _named(tree):
            for row, value in _rows(name, np.asarray(values, np.float64)):
                sums[row][kind] = sums[row].get(kind, 0.0) + value
    return {
        row: {kind: math.sqrt(value) for kind, value in kinds.items()}
        for row, kinds in sums.items()
    }


def _rows(name: str, values: np.ndarray) -> list[tuple[str, float]]:
    if values.ndim:
        return [(f"layer {i}", float(value)) for i, value in enumerate(values)]
    layer = re.search(r"\blayer_(\d+)\b", name)
    return [(f"layer {layer[1]}" if layer else name, float(values))]


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in leaves
    ]
