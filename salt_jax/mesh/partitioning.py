"""Where arrays live: one mesh, and one rule per logical axis name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from salt_jax.mesh.device_layout import lay_out

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """How many devices lie along each axis of the mesh.

    `data` is left out of an experiment as a rule: it takes the devices that the
    other two leave.
    """

    replica: int = 1  # Across slices: parameters copied, gradients summed.
    data: int | None = None  # Within a slice: the batch and the parameters split.
    model: int = 1  # Within a layer: vocabulary, heads and feed-forward split.

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        if any(size is not None and size < 1 for size in sizes.values()):
            raise ValueError(f"A mesh has sizes from 1 on, got {sizes}.")

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Returns the mesh over `devices`, by default all there are.

        Raises:
          ValueError: the devices do not divide into this shape.
        """
        devices = jax.devices() if devices is None else devices
        data = self.data or len(devices) // (self.replica * self.model)
        if self.replica * data * self.model != len(devices):
            raise ValueError(
                f"A mesh of replica={self.replica} x data={self.data or 'the rest'} x "
                f"model={self.model} does not fill the {len(devices)} devices here."
            )
        return Mesh(
            lay_out((self.replica, data, self.model), devices),
            ("replica", "data", "model"),
            axis_types=(AxisType.Auto,) * 3,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRules:
    """The mesh axes that each logical axis is split over; None is not split.

    The defaults are FSDP over `data` and tensor over `model`. With
    `batch = ("replica", "data", "model")` it is FSDP over both, and `model` is only
    what the vocabulary is split over in the loss; with `length = "model"` activations
    between the blocks are split over `model` too.
    """

    # Of parameters, as they are stored. To compute with them, they are gathered from
    # the axes that split the batch.
    layers: MeshAxes = None
    vocab: MeshAxes = ("model", "data")
    vocab_embed: MeshAxes = None  # Of what has a "vocab" as well.
    embed: MeshAxes = "data"
    heads: MeshAxes = "model"
    kv_heads: MeshAxes = None  # Often fewer than `model` devices, and small.
    head_dim: MeshAxes = None
    mlp: MeshAxes = "model"
    # Of activations.
    batch: MeshAxes = ("replica", "data")
    length: MeshAxes = None  # Between blocks, and in the loss; within, it is whole.
    act_embed: MeshAxes = None
    act_vocab: MeshAxes = "model"  # Of logits; the first axes of `vocab`.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partitioning:
    """A device mesh and the rules that put arrays on it."""

    mesh: Mesh
    rules: AxisRules = AxisRules()

    def __post_init__(self):
        for axis in dataclasses.asdict(self.rules):
            unknown = sorted(set(self.mesh_axes(axis)) - set(self.mesh.axis_names))
            if unknown:
                raise ValueError(
                    f"The rule for {axis!r} names the mesh axes {unknown}; there are "
                    f"{list(self.mesh.axis_names)}."
                )
        both = sorted(set(self.mesh_axes("batch")) & set(self.mesh_axes("length")))
        if both:
            raise ValueError(
                f"The rules for 'batch' and 'length' both name the mesh axes {both}: "
                "an axis can split one of them."
            )

    def spec(self, *axes: str | None) -> PartitionSpec:
        """Returns the mesh axes for an array whose dimensions are `axes`."""
        table = dataclasses.asdict(self.rules)
        unknown = sorted({axis for axis in axes if axis is not None} - set(table))
        if unknown:
            raise ValueError(
                f"No sharding rule for logical axes {unknown}; "
                f"there are rules for {sorted(table)}."
            )
        return PartitionSpec(*(None if axis is None else table[axis] for axis in axes))

    def sharding(self, *axes: str | None) -> NamedSharding:
        """Returns the sharding for an array whose dimensions are `axes`."""
        return NamedSharding(self.mesh, self.spec(*axes))

    def size(self, axis: str) -> int:
        """Returns into how many pieces the logical `axis` is split."""
        return math.prod(self.mesh.shape[name] for name in self.mesh_axes(axis))

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that the logical `axis` is split over."""
        (names,) = self.spec(axis)
        return (names,) if isinstance(names, str) else names or ()

    def of_one_replica(self) -> Partitioning:
        """Returns the rules for rows that are not split over `replica`.

        Raises:
          ValueError: the rules store a parameter in pieces along it.
        """
        names = (field.name for field in dataclasses.fields(self.rules))
        stored = [x for x in names if "replica" in self.mesh_axes(x) and x != "batch"]
        if stored:
            raise ValueError(
                f"The rules for {stored} name the mesh axis 'replica', along which "
                "parameters are copied and gradients summed: leave it to 'batch'."
            )
        batch = tuple(name for name in self.mesh_axes("batch") if name != "replica")
        return dataclasses.replace(
            self, rules=dataclasses.replace(self.rules, batch=batch)
        )

    def compute_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that `axis` is split over in a computation.

        Those that split the batch can split nothing else.
        """
        if axis == "batch":
            return self.mesh_axes(axis)
        taken = self.mesh_axes("batch")
        return tuple(name for name in self.mesh_axes(axis) if name not in taken)

    def compute_size(self, axis: str) -> int:
        """Returns into how many pieces `axis` is split in a computation."""
        return math.prod(self.mesh.shape[name] for name in self.compute_axes(axis))

    def compute_spec(self, *axes: str | None) -> PartitionSpec:
        """Returns the mesh axes for an array in a computation."""
        return PartitionSpec(
            *(
                None if axis is None else self.compute_axes(axis) or None
                for axis in axes
            )
        )

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Pins an array in a computation: an activation, or a gathered parameter."""
        sharding = NamedSharding(self.mesh, self.compute_spec(*axes))
        return jax.lax.with_sharding_constraint(x, sharding)

    def gather(self, parameter: jax.Array, *axes: str) -> jax.Array:
        """Returns a parameter, stored in pieces, as a computation needs it.

        From one mesh axis at a time: of two at once, XLA for TPUs makes a sum over all
        devices of mostly zeros, which moves twice as much.
        """
        for sharding in self._between_stored_and_computed(*axes)[1:]:
            parameter = jax.lax.with_sharding_constraint(parameter, sharding)
        return parameter

    def scatter(self, gradient: jax.Array, *axes: str) -> jax.Array:
        """Returns the gradient of a gathered parameter in the pieces it is stored in.

        Added up over devices and cut in one go, which is half of adding up the whole.
        """
        *stored, gathered = self._between_stored_and_computed(*axes)
        for sharding in reversed(stored or [gathered]):
            gradient = jax.lax.with_sharding_constraint(gradient, sharding)
        return gradient

    def _between_stored_and_computed(self, *axes: str) -> list[NamedSharding]:
        """Returns how a parameter is split, as one mesh axis after another goes."""
        split = [self.mesh_axes(axis) for axis in axes]
        kept = {name for axis in axes for name in self.compute_axes(axis)}
        steps = [split]
        for gathered in reversed(self.mesh.axis_names):
            if gathered in kept or not any(gathered in names for names in split):
                continue
            split = [tuple(x for x in names if x != gathered) for names in split]
            steps.append(split)
        return [
            NamedSharding(self.mesh, PartitionSpec(*(names or None for names in step)))
            for step in steps
        ]

    def abstract(self, init: Callable[..., Any], *args: Any) -> Any:
        """Returns what `init` would make, as shapes, dtypes and shardings.

        Parameters take their sharding from the axes they were declared with, and
        optimizer moments from their parameters. Scalars are replicated.

        Raises:
          ValueError: an array does not divide over the mesh axes of its rule.
        """
        boxed = jax.eval_shape(init, *args)
        specs = nn.get_partition_spec(boxed)
        shardings = jax.tree.map(
            lambda axes: self.sharding(*axes),
            specs,
            is_leaf=lambda node: isinstance(node, PartitionSpec),
        )
        unboxed = jax.tree.map(
            lambda x, sharding: x.update(sharding=sharding), nn.unbox(boxed), shardings
        )
        jax.tree_util.tree_map_with_path(_check_divides, unboxed)
        return unboxed

    def materialize(self, init: Callable[..., Any], *args: Any) -> Any:
        """Calls `init` so that every array it makes is born on its own shards."""
        return self.jit_init(init, *args)(*args)

    def jit_init(self, init: Callable[..., Any], *args: Any) -> jax.stages.Wrapped:
        """Returns `init` as `materialize` calls it."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(init, *args))
        return jax.jit(lambda *args: nn.unbox(init(*args)), out_shardings=shardings)


def bytes_per_device(abstract_tree: Any) -> int:
    """Returns the bytes that one device holds of a tree with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(abstract_tree)
    )


def _check_divides(path: Any, x: jax.ShapeDtypeStruct) -> None:
    try:
        x.sharding.shard_shape(x.shape)
    except ValueError as error:
        raise ValueError(
            f"{jax.tree_util.keystr(path)} of shape {x.shape} does not divide over "
            f"{x.sharding.spec} of the mesh {dict(x.sharding.mesh.shape)}: change "
            "the mesh, or the axis rule."
        ) from error
