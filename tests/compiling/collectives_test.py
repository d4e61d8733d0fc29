import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from salt_jax.compiling.collectives import collectives, total_bytes
from salt_jax.compiling.hlo import Module

ONE_SLICE = [0] * 8
TWO_SLICES = [0] * 4 + [1] * 4


def module(*lines, computations=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{computations}\nENTRY %main.1 (p: f32[16]) -> f32[16] {{\n{body}\n}}\n"


def only(text, slice_of=ONE_SLICE):
    (collective,) = collectives(text, slice_of)
    return collective


# ---- One operation ----------------------------------------------------------


@pytest.mark.parametrize(
    "shape, operation, kind, sent",
    [
        ("f32[64]{0}", "all-gather(%x)", "all-gather", 256 * 7 / 8),
        ("bf16[64]{0:T(8,128)(2,1)}", "all-gather(%x)", "all-gather", 128 * 7 / 8),
        ("f32[64]{0}", "all-reduce(%x)", "all-reduce", 2 * 256 * 7 / 8),
        ("f32[8]{0}", "reduce-scatter(%x)", "reduce-scatter", 32 * 7),
        ("f32[64]{0}", "all-to-all(%x)", "all-to-all", 256 * 7 / 8),
        ("(f32[64]{0}, /*index=1*/bf16[2,32])", "all-reduce(%x, %y)", "all-reduce",
         2 * (256 + 128) * 7 / 8),
        ("pred[64]{0}", "all-gather(%x)", "all-gather", 64 * 7 / 8),
        ("s4[64]{0}", "all-gather(%x)", "all-gather", 32 * 7 / 8),
        ("f8e4m3fn[64]{0}", "all-gather(%x)", "all-gather", 64 * 7 / 8),
        # What goes in stands before what comes out.
        ("(f32[8], f32[64], u32[], u32[])", "all-gather-start(%x)", "all-gather",
         256 * 7 / 8),
        ("((f32[8], bf16[8]), (f32[64], bf16[64]))", "all-gather-start(%x, %y)",
         "all-gather", (256 + 128) * 7 / 8),
        ("f32[64]", "all-reduce-start(%x)", "all-reduce", 2 * 256 * 7 / 8),
    ],
)  # fmt: skip
def test_what_a_chip_sends_is_counted_as_around_a_ring(shape, operation, kind, sent):
    groups = "replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}"
    found = only(module(f"%c = {shape} {operation}, channel_id=1, {groups}"))
    assert (found.kind, found.bytes_per_chip, found.count) == (kind, sent, 1)


@pytest.mark.parametrize("operation", ["", "-start"])
def test_a_permutation_sends_all_of_it(operation):
    shape = "(f32[64], f32[64], u32[], u32[])" if operation else "f32[64]"
    line = f"%c = {shape} collective-permute{operation}(%x), "
    line += "source_target_pairs={{0,1},{1,0}}"
    assert only(module(line)).bytes_per_chip == 256


def test_the_end_of_an_operation_that_was_started_is_not_another():
    text = module(
        "%s = (f32[8], f32[64]) all-gather-start(%x), replica_groups={}",
        "%d = f32[64] all-gather-done(%s)",
    )
    assert only(text).bytes_per_chip == 256 * 7 / 8


# ---- Groups -----------------------------------------------------------------


@pytest.mark.parametrize(
    "groups, members, across",
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2, False),
        ("{{0,4},{1,5},{2,6},{3,7}}", 2, True),
        ("{}", 8, True),
        ("[2,4]<=[8]", 4, False),
        ("[4,2]<=[2,4]T(1,0)", 2, True),
        ("[4,2]<=[2,2,2]T(0,2,1)", 2, False),
        ("[2,4]<=[2,2,2]T(1,0,2)", 4, True),
        ("mesh['a'=2,'b'=4] {'b'}", 4, False),
        ("mesh['a'=2,'b'=4] {'a'}", 2, True),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8, True),
        ("mesh['a'=8] {'a':(1)2}", 2, True),
        ("mesh['a'=8] {'a':(4)2}", 2, False),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", 4, True),
    ],
)
def test_groups_are_read_in_each_form_they_are_written_in(groups, members, across):
    line = f"%c = f32[64] all-gather(%x), replica_groups={groups}, dimensions={{0}}"
    found = only(module(line), TWO_SLICES)
    sent = 256 * (members - 1) / members
    assert (found.bytes_per_chip, found.across_slices) == (sent, across)


def test_what_the_runtime_carries_across_slices_is_read_from_its_host_transfers():
    about = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
    kind = '_xla_megascale_transfer_type="ALL_REDUCE"'
    text = module(
        f"%s = (f32[64], u32[], token[]) send(%x, %t), frontend_attributes={{{about},{kind}}}",  # noqa: E501
        f"%r = (f32[64], u32[], token[]) recv(%t), frontend_attributes={{{about},{kind}}}",  # noqa: E501
        f"%e = (f32[64], token[]) recv-done(%r), frontend_attributes={{{about}}}",
    )
    found = only(text, TWO_SLICES)
    assert (found.kind, found.across_slices) == ("all-reduce", True)
    assert found.bytes_per_chip == 2 * 256 / 2


# ---- How often --------------------------------------------------------------

LOOP = """
%body.1 (a: (s32[], f32[64])) -> (s32[], f32[64]) {
  %g = f32[64] all-gather(%x), channel_id=1, replica_groups={}, dimensions={0}
}

%condition.1 (a: (s32[], f32[64])) -> pred[] {
  %limit = s32[] constant(12)
  %a = (s32[], f32[64]) parameter(0)
  %i = s32[] get-tuple-element(%a), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}
"""
WHILE = "%w = (s32[], f32[64]) while(%begin), condition=%condition.1, body=%body.1"


def begin(constant):
    return (
        f"%i0 = s32[] constant({constant})",
        "%begin = (s32[], f32[64]) tuple(%i0, %x)",
    )


def test_what_is_in_a_loop_is_counted_as_often_as_it_runs():
    assert only(module(*begin(0), WHILE, computations=LOOP)).count == 12
    assert only(module(*begin(2), WHILE, computations=LOOP)).count == 10


def test_a_known_trip_count_is_believed():
    known = ', backend_config={"known_trip_count":{"n":"5"}}'
    text = module(*begin(0), WHILE + known, computations=LOOP)
    assert (only(text).count, only(text).bytes_per_chip) == (5, 5 * 256 * 7 / 8)


def test_a_limit_within_a_fusion_is_found():
    fused = """
%compared (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %limit = s32[] constant(12)
  ROOT %lt = pred[] compare(%p, %limit), direction=LT
}
"""
    body = LOOP.split("%condition.1")[0]
    calling = """ (a: (s32[], f32[64])) -> pred[] {
  %a = (s32[], f32[64]) parameter(0)
  %i = s32[] get-tuple-element(%a), index=0
  ROOT %done = pred[] fusion(%i), kind=kLoop, calls=%compared
}
"""
    computations = fused + body + "%condition.1" + calling
    assert only(module(*begin(2), WHILE, computations=computations)).count == 10


def test_loops_within_loops_multiply():
    outer = (
        LOOP
        + """
%body.2 (a: s32[]) -> s32[] {
  %j0 = s32[] constant(0)
  %again = (s32[], f32[64]) tuple(%j0, %x)
  %v = (s32[], f32[64]) while(%again), condition=%condition.1, body=%body.1
}
"""
    )
    known = ', backend_config={"known_trip_count":{"n":"3"}}'
    while_2 = f"%w = s32[] while(%x), condition=%none, body=%body.2{known}"
    assert only(module(while_2, computations=outer)).count == 36


def test_a_gather_that_is_written_in_each_product_it_hides_behind_counts_once():
    pieces = "".join(
        f"""
%fusion_{i} (p: f32[8]) -> f32[64] {{
  %g.{i} = f32[64] all-gather(%p), channel_id=7, replica_groups={{}}, dimensions={{0}}
}}
"""
        for i in range(3)
    )
    calls = [
        f"%c.{i} = f32[64] fusion(%x), kind=kCustom, calls=%fusion_{i}"
        for i in range(3)
    ]
    assert only(module(*calls, computations=pieces)).count == 1


def test_a_sum_that_is_sliced_at_once_is_a_reduce_scatter():
    inside = """
%all-reduce-scatter.3 (p: f32[64]) -> f32[8] {
  %r = f32[64] all-reduce(%p), channel_id=7, replica_groups={}, to_apply=%add
  %s = f32[8] dynamic-slice(%r, %i), dynamic_slice_sizes={8}
}
"""
    call = "%c = f32[8] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3"
    found = only(module(call, computations=inside))
    assert (found.kind, found.bytes_per_chip) == ("reduce-scatter", 32 * 7)


# ---- Programs that XLA has made ---------------------------------------------


@pytest.fixture(scope="module")
def fsdp():
    """The text of a loop over layers whose weights are gathered from eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "data", None))
    rows = NamedSharding(mesh, PartitionSpec("data", None))

    def loss(weights_NDD, x_BD):
        def layer(x_BD, weight_DD):
            x_BD = jnp.tanh(x_BD @ weight_DD)
            return jax.lax.with_sharding_constraint(x_BD, rows), None

        return jnp.sum(jax.lax.scan(layer, x_BD, weights_NDD)[0])

    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((4096, 64), jnp.float32, sharding=rows)
    step = jax.jit(jax.grad(loss), out_shardings=split)
    return step.lower(weights, x).compile().as_text()


def test_fsdp_gathers_its_weights_twice_and_sums_their_gradients_once(fsdp):
    weights = 5 * 64 * 64 * 4
    found = collectives(fsdp, ONE_SLICE)
    gathered = total_bytes(found, "all-gather", across_slices=False)
    assert gathered == 2 * weights * 7 / 8
    # The CPU's compiler sums whole gradients, and then takes each device's part.
    summed = total_bytes(found, "all-reduce", across_slices=False)
    assert summed == 2 * weights * 7 / 8


def test_each_instruction_of_a_program_is_in_a_computation(fsdp):
    parsed = Module.parse(fsdp)
    count = sum(len(lines) for lines in parsed.computations.values())
    assert parsed.entry in parsed.computations
    assert count == sum(" = " in line for line in fsdp.splitlines()[1:])
    assert np.sum([x.times for x in parsed.placed()]) > count
