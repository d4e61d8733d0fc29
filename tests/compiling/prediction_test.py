import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from salt_jax.compiling.compile import compiling
from salt_jax.compiling.inspected import Inspected
from salt_jax.compiling.prediction import Prediction, predict
from salt_jax.compiling.prediction_rows import in_words, where_in_words
from salt_jax.compiling.programs import Planned
from salt_jax.compiling.schedule import COPIES, OTHER, PRODUCTS, Item
from salt_jax.compiling.topology import open_topology, prepare_process
from salt_jax.config import Stage
from salt_jax.mesh.chips import CHIPS
from salt_jax.model.flops import FlopsBill

V5E = CHIPS["TPU v5 lite"]
GATHER = Item("all-gather", False, "jit(step)/jvp(M)/while/body/mlp/gather")
MADE = Prediction(
    seconds_by_item={
        Item(PRODUCTS, False, "a"): 0.5,
        Item(PRODUCTS, False, "b"): 0.1,
        Item(OTHER, False, "c"): 0.2,
        Item(COPIES, False, "d"): 0.02,
        GATHER: 0.1,
        Item("all-reduce", True, "f"): 0.08,
    },
    peak_seconds=0.55,
    sending_seconds=0.3,
    memory_bytes=1e9,
    flops=0.55 * 197e12,
    model_flops=0.4 * 197e12,
    recomputed_flops=0.1 * 197e12,
    chip=V5E,
)


def test_the_shares_of_peak_are_those_of_the_bill_in_the_predicted_time():
    assert MADE.seconds == pytest.approx(1.0)
    assert (MADE.mfu, MADE.hfu) == (pytest.approx(0.4), pytest.approx(0.5))


def test_each_second_is_in_one_part():
    about = MADE.as_json()
    parts = ("products", "other", "copies", "exposed", "exposed_across_slices")
    expected = [0.6, 0.2, 0.02, 0.1, 0.08]
    assert [about[f"{x}_seconds"] for x in parts] == pytest.approx(expected)
    assert sum(expected) == pytest.approx(about["seconds"])
    assert about["largest"][0]["where"] == "a"


def program(name, seconds, flops):
    made = dataclasses.replace(MADE, seconds_by_item={GATHER: seconds})
    mesh = Mesh(jax.devices()[:1], ("one",))
    planned = Planned(
        name=name, mesh=mesh, lower=lambda: None, held={}, flops=flops,
        stage=object.__new__(Stage),
    )  # fmt: skip
    return Inspected(planned=planned, peak=1, available=2, prediction=made)


def test_a_step_with_a_teacher_is_compared_with_the_plain_one():
    taught = program("distill", 1.2, FlopsBill(student_forward=8, teacher_forward=1))
    plain = program("standard", 1.0, FlopsBill(student_forward=8))
    *_, last = in_words([taught, plain])
    assert last == "distill / standard: 1.200; by FLOPs alone, 1.125."
    assert any("not measured" in line for line in in_words([plain]))
    assert any("1,000 ms all-gather (mlp/gather)" in x for x in in_words([plain]))


def test_a_place_in_the_backward_pass_is_named_as_such():
    assert where_in_words(GATHER) == "mlp/gather"
    where = "jit(step)/transpose(jvp(M))/while/body/checkpoint/mlp/gather"
    assert where_in_words(Item("x", False, where)) == "backward mlp/gather"
    assert where_in_words(Item("x", False, "")) == "unnamed"


def step(devices):
    """Returns a step with weights split over `devices`, and its products' FLOPs."""
    mesh = Mesh(np.array(devices).reshape(-1), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "data", None))
    rows = NamedSharding(mesh, PartitionSpec("data", None))

    def loss(weights_NDD, x_BD):
        def layer(x_BD, weight_DD):
            x_BD = jnp.tanh(x_BD @ weight_DD)
            return jax.lax.with_sharding_constraint(x_BD, rows), None

        return jnp.sum(jax.lax.scan(layer, x_BD, weights_NDD)[0].astype(jnp.float32))

    N, B, D = 6, 4096, 1024
    weights = jax.ShapeDtypeStruct((N, D, D), jnp.bfloat16, sharding=split)
    x = jax.ShapeDtypeStruct((B, D), jnp.bfloat16, sharding=rows)
    # The gradient by x is not computed in the first layer, but the loop does not know.
    flops = 3 * N * 2 * B * D * D
    return mesh, jax.jit(jax.grad(loss), out_shardings=split).lower(weights, x), flops


def test_nothing_is_predicted_for_a_cpu_or_a_gpu_or_without_a_schedule():
    mesh, lowered, flops = step(jax.devices())
    text = lowered.compile().as_text()
    bill = FlopsBill(student_forward=flops)
    assert predict(text, mesh, None, bill, 1.0) is None
    gpu = CHIPS["NVIDIA H100 80GB HBM3"]
    assert predict(text, mesh, gpu, bill, 1.0) is None
    assert predict(text, mesh, V5E, bill, 1.0) is not None
    header, _, rest = text.partition("\n")
    unscheduled = header.replace("is_scheduled=true", "") + "\n" + rest
    assert predict(unscheduled, mesh, V5E, bill, 1.0) is None


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_of_a_program_for_a_tpu_all_products_are_found_and_no_time_is_below_peak():
    prepare_process("v5e:2x2")
    mesh, lowered, flops = step(open_topology("v5e:2x2").devices)
    with compiling(None):
        text = lowered.compile().as_text()
    bill = FlopsBill(student_forward=flops)
    found = predict(text, mesh, V5E, bill, 1 / 4)
    assert found.flops == pytest.approx(flops / 4, rel=0.02)
    assert found.of(PRODUCTS) >= found.peak_seconds
    assert 0 < found.mfu < 1
    # Weights are gathered twice, and their gradients summed once, around the square.
    sent = 3 * 3 / 4 * 6 * 1024 * 1024 * 2
    expected = sent / (V5E.link_bytes_per_second / 2)
    assert found.sending_seconds == pytest.approx(expected, rel=0.02)
    assert found.exposed(across_slices=False) <= found.sending_seconds
    assert found.exposed(across_slices=True) == 0
