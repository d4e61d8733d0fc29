import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from salt_jax.mesh.memory import bytes_per_device
from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from tests.examples import on_platform

ON_8 = Partitioning(mesh=MeshShape(replica=2, model=2).build())


def test_data_takes_the_devices_that_the_others_leave():
    assert dict(ON_8.mesh.shape) == {"replica": 2, "data": 2, "model": 2}
    assert dict(MeshShape().build().shape) == {"replica": 1, "data": 8, "model": 1}


@pytest.mark.parametrize(
    "shape, said",
    [
        (MeshShape(model=3), "replica=1 .*model=3 .*8 devices"),
        (MeshShape(model=16), "model=16 .*8 devices"),
        (MeshShape(data=2), "data=2 x model=1 .*8 devices"),
        (MeshShape(data=16), "data=16 x model=1 .*8 devices"),
    ],
)
def test_a_mesh_that_does_not_fill_the_devices_is_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        shape.build()


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("axis", ["replica", "data", "model"])
def test_a_mesh_of_no_size_is_refused(axis, size):
    with pytest.raises(ValueError, match=f"mesh .*'{axis}': {size}"):
        MeshShape(**{axis: size})


def test_an_unknown_axis_is_refused_by_name():
    with pytest.raises(ValueError, match=r"axes \['hedas'\].*'heads'"):
        ON_8.sharding("embed", "hedas")


def test_a_rule_on_an_unknown_mesh_axis_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'mlp' .*\['modle'\].*'model'"):
        Partitioning(mesh=ON_8.mesh, rules=AxisRules(mlp=("data", "modle")))


def test_every_axis_goes_where_its_rule_says():
    spec = ON_8.spec("batch", "length", None, "mlp")
    assert spec == PartitionSpec(("replica", "data"), None, None, "model")
    assert ON_8.sharding("embed", "mlp").spec == PartitionSpec("data", "model")


@pytest.mark.parametrize(
    "axis, size", [("batch", 4), ("embed", 2), ("mlp", 2), ("length", 1)]
)
def test_an_axis_has_as_many_pieces_as_its_mesh_axes_multiply_to(axis, size):
    assert ON_8.size(axis) == size


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, PartitionSpec(("replica", "data"), None, None, ("model",))),
        (
            dict(batch=("replica", "data", "model")),
            PartitionSpec(("replica", "data", "model"), None, None, None),
        ),
        (
            dict(batch="replica", length="model", embed=("replica", "data")),
            PartitionSpec(("replica",), ("model",), ("data",), ("model",)),
        ),
    ],
)
def test_in_a_computation_an_axis_is_gathered_from_those_that_split_the_batch(
    rules, expected
):
    on = dataclasses.replace(ON_8, rules=AxisRules(**rules))
    assert on.compute_spec("batch", "length", "embed", "mlp") == expected


@pytest.mark.parametrize("axis, size", [("batch", 4), ("embed", 1), ("vocab", 2)])
def test_gathered_axes_multiply_to_no_pieces(axis, size):
    assert ON_8.compute_size(axis) == size


def test_one_mesh_axis_cannot_split_both_the_batch_and_the_length():
    rules = AxisRules(batch=("data", "model"), length="model")
    with pytest.raises(ValueError, match=r"'batch' and 'length' .*'model'"):
        Partitioning(mesh=ON_8.mesh, rules=rules)


def init(key, width=8):
    axes = ("embed", "mlp")
    weight = jax.random.normal(key, (width, 6))
    return {"weight": nn.Partitioned(weight, axes), "count": jnp.zeros((), jnp.int32)}


def test_arrays_are_born_on_their_shards_and_unboxed():
    made = ON_8.materialize(init, jax.random.key(0))
    assert made["weight"].sharding == ON_8.sharding("embed", "mlp")
    shards = made["weight"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(4, 3)}
    assert len({shard.device for shard in shards}) == 8
    assert made["count"].sharding.is_fully_replicated
    assert len(made["count"].sharding.device_set) == 8


def test_making_an_array_leaves_no_device_with_more_than_its_share():
    make = lambda key: init(key, width=2**12)
    before = len(jax.live_arrays())
    made = ON_8.materialize(make, jax.random.key(0))
    assert len(jax.live_arrays()) == before + len(jax.tree.leaves(made))
    assert bytes_per_device(made) == 2**12 * 6 * 4 // 4 + 4


def test_values_do_not_depend_on_the_mesh():
    one = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    made = [on.materialize(init, jax.random.key(0)) for on in (one, ON_8)]
    np.testing.assert_array_equal(made[0]["weight"], made[1]["weight"])


def test_what_is_described_is_what_is_made():
    described = ON_8.abstract(init, jax.random.key(0))
    made = ON_8.materialize(init, jax.random.key(0))
    facts = lambda x: (x.shape, x.dtype, x.sharding)
    assert jax.tree.map(facts, described) == jax.tree.map(facts, made)


def test_bytes_on_a_device_are_those_of_its_shards():
    described = ON_8.abstract(init, jax.random.key(0))
    assert bytes_per_device(described) == 8 * 6 * 4 // 4 + 4
    half = {"w": jax.ShapeDtypeStruct((8, 6), jnp.bfloat16, sharding=ON_8.sharding())}
    assert bytes_per_device(half) == 8 * 6 * 2


def test_an_array_that_does_not_divide_is_refused_by_its_name_and_mesh():
    with pytest.raises(ValueError, match=r"\['weight'\] of shape \(7, 6\)"):
        ON_8.abstract(lambda key: init(key, width=7), jax.random.key(0))


def test_a_constraint_is_kept_inside_jit():
    pinned = jax.jit(lambda x: ON_8.constrain(x, "batch", None))(jnp.zeros((8, 2)))
    assert pinned.sharding.is_equivalent_to(ON_8.sharding("batch", None), 2)


FSDP = AxisRules(batch=("replica", "data", "model"))
WIDE = AxisRules(batch=("data", "model"), embed=("data", "model"), mlp=None)


@pytest.mark.parametrize(
    ("rules", "piece"),
    [(AxisRules(), (8, 3)), (FSDP, (8, 6)), (WIDE, (8, 6))],
    ids=["tensor_parallel", "fsdp", "wide"],
)
def test_a_parameter_is_gathered_to_compute_and_cut_to_be_stored(rules, piece):
    on = dataclasses.replace(ON_8, rules=rules)
    whole = jnp.arange(48.0).reshape(8, 6)
    parameter = jax.device_put(whole, on.sharding("embed", "mlp"))
    gathered = jax.jit(lambda x: on.gather(x, "embed", "mlp"))(parameter)
    assert gathered.sharding.shard_shape((8, 6)) == piece
    stored = jax.jit(lambda x: on.scatter(x, "embed", "mlp"))(gathered)
    assert stored.sharding.is_equivalent_to(parameter.sharding, 2)
    for x in (gathered, stored):
        np.testing.assert_array_equal(x, whole)


def pieces(change):
    """The pieces of a parameter on its way, the last one at the end of it."""
    jaxpr = jax.make_jaxpr(lambda x: change(x, "embed", "mlp"))(jnp.zeros((8, 6)))
    shardings = [eqn.params["sharding"] for eqn in jaxpr.eqns]
    return [sharding.shard_shape((8, 6)) for sharding in shardings]


def test_a_parameter_is_gathered_from_one_mesh_axis_at_a_time():
    on = dataclasses.replace(ON_8, rules=FSDP)
    assert pieces(on.gather) == [(4, 6), (8, 6)]
    assert pieces(on.scatter)[-2:] == [(4, 6), (4, 3)]


def test_gpus_gather_small_parts_across_hosts_and_the_rest_within_one():
    on = on_platform("gpu", dataclasses.replace(ON_8, rules=FSDP))
    assert pieces(on.gather) == [(8, 3), (8, 6)]
    assert pieces(on.scatter)[-2:] == [(8, 3), (4, 3)]


def test_a_partitioning_is_a_value():
    assert dataclasses.replace(ON_8) == ON_8
    assert hash(dataclasses.replace(ON_8)) == hash(ON_8)


@pytest.mark.parametrize(
    "rules", [{"embed": ("replica", "data")}, {"vocab": ("model", "data", "replica")}]
)
def test_parameters_are_not_stored_along_the_axis_that_sums_gradients(rules):
    on = dataclasses.replace(ON_8, rules=AxisRules(**rules))
    with pytest.raises(ValueError, match="'replica'.*'batch'"):
        on.of_one_replica()
