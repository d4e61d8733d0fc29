"""Sharding: one device mesh, and one rule per logical axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from salt_jax.mesh.device_layout import lay_out
from salt_jax.mesh.sharded_shapes import sharded_shapes

MeshAxes = str | tuple[str, ...] | None
REPLICA = "replica"  # The mesh axis across slices.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """The number of devices along each axis of the mesh.

    `data` is usually unset: it is inferred from the device count and the other two.
    """

    replica: int = 1  # Across slices: replicated parameters, summed gradients.
    data: int | None = None  # Within a slice: sharded batch and parameters (FSDP).
    model: int = 1  # Tensor parallelism: sharded vocabulary, heads and feed-forward.

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        if any(size is not None and size < 1 for size in sizes.values()):
            raise ValueError(f"The sizes of a mesh must be positive, got {sizes}.")

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Returns the mesh over `devices`; all of JAX's by default.

        Raises:
          ValueError: the number of devices is not that of the shape.
        """
        devices = jax.devices() if devices is None else devices
        data = self.data or len(devices) // (self.replica * self.model)
        if self.replica * data * self.model != len(devices):
            raise ValueError(
                f"The mesh replica={self.replica} x data={self.data or 'inferred'} x "
                f"model={self.model} does not fit {len(devices)} devices: the product "
                "must be the number of devices."
            )
        return Mesh(
            lay_out((self.replica, data, self.model), devices),
            (REPLICA, "data", "model"),
            axis_types=(AxisType.Auto,) * 3,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRules:
    """The mesh axes that shard each logical axis; None does not shard it.

    The defaults are FSDP over `data` and tensor parallelism over `model`. With
    `batch = ("replica", "data", "model")`, FSDP covers both axes, and `model` shards
    only the vocabulary in the loss. With `length = "model"`, activations between blocks
    are sharded over `model` as well (sequence parallelism).
    """

    # Parameters, as stored. For a computation they are all-gathered over the mesh axes
    # that shard the batch.
    layers: MeshAxes = None
    vocab: MeshAxes = ("model", "data")
    vocab_embed: MeshAxes = None  # The embed axis of arrays with a "vocab" axis.
    embed: MeshAxes = "data"
    heads: MeshAxes = "model"
    kv_heads: MeshAxes = None  # Often fewer than the devices along `model`.
    head_dim: MeshAxes = None
    mlp: MeshAxes = "model"
    # Activations.
    batch: MeshAxes = ("replica", "data")
    length: MeshAxes = None  # Between blocks and in the loss; never inside a block.
    act_embed: MeshAxes = None
    act_vocab: MeshAxes = "model"  # Logits; must be the first axes of `vocab`.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partitioning:
    """A device mesh, and the rules that shard arrays over it."""

    mesh: Mesh
    rules: AxisRules = AxisRules()
    is_one_replica: bool = False  # Each replica computes apart, with its own arrays.

    def __post_init__(self):
        for axis in dataclasses.asdict(self.rules):
            unknown = sorted(set(self.mesh_axes(axis)) - set(self.mesh.axis_names))
            if unknown:
                raise ValueError(
                    f"The rule for {axis!r} names unknown mesh axes {unknown}; the "
                    f"mesh has {list(self.mesh.axis_names)}."
                )
        both = sorted(set(self.mesh_axes("batch")) & set(self.mesh_axes("length")))
        if both:
            raise ValueError(
                f"The rules for 'batch' and 'length' both name the mesh axes {both}: "
                "a mesh axis can shard only one of them."
            )

    @property
    def platform(self) -> str:
        """The platform of the devices, such as "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def compute_capability(self) -> str:
        """The generation of the GPUs, such as "9.0"; "" if there is none."""
        return getattr(self.mesh.devices.flat[0], "compute_capability", "")

    def spec(self, *axes: str | None) -> PartitionSpec:
        """Returns the spec of a stored array with logical `axes`."""
        table = dataclasses.asdict(self.rules)
        unknown = sorted({axis for axis in axes if axis is not None} - set(table))
        if unknown:
            raise ValueError(
                f"No sharding rule for the logical axes {unknown}; there are rules "
                f"for {sorted(table)}."
            )
        return PartitionSpec(*(None if axis is None else table[axis] for axis in axes))

    def sharding(self, *axes: str | None) -> NamedSharding:
        """Returns the sharding of a stored array with logical `axes`."""
        return NamedSharding(self.mesh, self.spec(*axes))

    def size(self, axis: str) -> int:
        """Returns the number of shards of the logical `axis`."""
        return math.prod(self.mesh.shape[name] for name in self.mesh_axes(axis))

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that shard the logical `axis`."""
        (names,) = self.spec(axis)
        return (names,) if isinstance(names, str) else names or ()

    def of_one_replica(self) -> Partitioning:
        """Returns the partitioning of one replica, which does not split its batch.

        Raises:
          ValueError: a rule other than that of "batch" names `replica`.
        """
        names = (field.name for field in dataclasses.fields(self.rules))
        stored = [x for x in names if REPLICA in self.mesh_axes(x) and x != "batch"]
        if stored:
            raise ValueError(
                f"The rules for {stored} name the mesh axis 'replica': only 'batch' "
                "may, because parameters are replicated along it."
            )
        batch = tuple(name for name in self.mesh_axes("batch") if name != REPLICA)
        rules = dataclasses.replace(self.rules, batch=batch)
        return dataclasses.replace(self, rules=rules, is_one_replica=True)

    def compute_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that shard `axis` in a computation.

        Mesh axes that shard the batch shard nothing else there.
        """
        if axis == "batch":
            return self.mesh_axes(axis)
        taken = self.mesh_axes("batch")
        return tuple(name for name in self.mesh_axes(axis) if name not in taken)

    def compute_size(self, axis: str) -> int:
        """Returns the number of shards of `axis` in a computation."""
        return math.prod(self.mesh.shape[name] for name in self.compute_axes(axis))

    def compute_spec(self, *axes: str | None) -> PartitionSpec:
        """Returns the spec in a computation of an array with logical `axes`."""
        return PartitionSpec(
            *(
                None if axis is None else self.compute_axes(axis) or None
                for axis in axes
            )
        )

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Constrains an activation or a gathered parameter to its compute sharding."""
        sharding = NamedSharding(self.mesh, self.compute_spec(*axes))
        return jax.lax.with_sharding_constraint(x, sharding)

    def gather(self, parameter: jax.Array, *axes: str) -> jax.Array:
        """Returns a stored parameter, all-gathered to its compute sharding.

        One mesh axis at a time: for two at once, XLA for TPUs emits an all-reduce of
        mostly zeros, which moves twice the bytes.
        """
        for sharding in self._between_stored_and_computed(*axes)[1:]:
            parameter = jax.lax.with_sharding_constraint(parameter, sharding)
        return parameter

    def scatter(self, gradient: jax.Array, *axes: str) -> jax.Array:
        """Returns the gradient of a gathered parameter, sharded as it is stored.

        One constraint for all axes lets XLA reduce-scatter, which moves half the bytes
        of an all-reduce.
        """
        *stored, gathered = self._between_stored_and_computed(*axes)
        for sharding in reversed(stored or [gathered]):
            gradient = jax.lax.with_sharding_constraint(gradient, sharding)
        return gradient

    def _between_stored_and_computed(self, *axes: str) -> list[NamedSharding]:
        """Returns the shardings on the way from stored to gathered, axis by axis."""
        split = [self.mesh_axes(axis) for axis in axes]
        kept = {name for axis in axes for name in self.compute_axes(axis)}
        steps = [split]
        order = self.mesh.axis_names
        if self.platform != "gpu":  # Where the outer axes cross hosts: small parts.
            order = order[::-1]
        for gathered in order:
            if gathered in kept or not any(gathered in names for names in split):
                continue
            split = [tuple(x for x in names if x != gathered) for names in split]
            steps.append(split)
        return [
            NamedSharding(self.mesh, PartitionSpec(*(names or None for names in step)))
            for step in steps
        ]

    def abstract(self, init: Callable[..., Any], *args: Any) -> Any:
        """Returns the result of `init` as shapes, dtypes and shardings.

        A boxed array is sharded by the rules of its logical axes. Other arrays, such as
        the step, are replicated.

        Raises:
          ValueError: an array does not divide over the mesh axes of its rule.
        """
        return sharded_shapes(jax.eval_shape(init, *args), self.sharding)

    def materialize(self, init: Callable[..., Any], *args: Any) -> Any:
        """Calls `init` under `jit`, so every array is created in its shards."""
        return self.jit_init(init, *args)(*args)

    def jit_init(self, init: Callable[..., Any], *args: Any) -> jax.stages.Wrapped:
        """Returns the jitted `init` that `materialize` calls."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(init, *args))
        return jax.jit(lambda *args: nn.unbox(init(*args)), out_shardings=shardings)
