import dataclasses

import pytest

from salt_jax.compiling.hlo import Module
from salt_jax.compiling.links import Fabric
from salt_jax.compiling.schedule import COPIES, OTHER, PRODUCTS, Walk
from salt_jax.mesh.chips import Chip

# A millisecond is 1e9 FLOPs, 1e6 bytes of memory, 1e6 sent bytes, or 1e6 cycles.
CHIP = Chip(
    name="a chip",
    flops_per_second=1e12,
    memory_bytes_per_second=1e9,
    usable_gib=16,
    link_bytes_per_second=1e9,
    network_bytes_per_second=1e8,
    flops_per_cycle=1000,
)
SWITCHED = Fabric(chip=CHIP, slice_of=[0, 0], places=[(), ()])

# On two chips, each sends half of what it gathers: 1e6 of 2e6 bytes, a millisecond.
GATHER_START = (
    "%start = (bf16[500,1000], bf16[1000,1000]) all-gather-start(%half), "
    "channel_id=1, replica_groups={{0,1}}, dimensions={0}, "
    'metadata={op_name="layer/gather"}'
)
GATHER_DONE = "%done = bf16[1000,1000] all-gather-done(%start)"
GATHER = (
    "%gather = bf16[1000,1000] all-gather(%half), channel_id=2, "
    "replica_groups={{0,1}}, dimensions={0}"
)
HALF = "%half = bf16[500,1000] parameter(0)"


def work(name, milliseconds):
    """An operation whose time XLA estimates."""
    config = f'backend_config={{"estimated_cycles":"{int(milliseconds * 1e6)}"}}'
    return f"%{name} = f32[8]{{0:S(1)}} fusion(), kind=kLoop, calls=%none, {config}"


def module(*lines, computations=""):
    body = "\n".join(f"  {line}" for line in (HALF, *lines))
    entry = f"ENTRY %main (half: bf16[500,1000]) -> f32[8] {{\n{body}\n}}\n"
    return f"HloModule m, is_scheduled=true\n{computations}\n{entry}"


def walked(text, fabric=SWITCHED):
    parsed = Module.parse(text)
    return Walk(parsed, fabric).of(parsed.entry)


def milliseconds(text, fabric=SWITCHED):
    """Returns the milliseconds of each part."""
    found = {}
    for item, seconds in walked(text, fabric).seconds.items():
        found[item.part] = found.get(item.part, 0.0) + 1000 * seconds
    return {part: pytest.approx(x) for part, x in found.items() if x}


# ---- What is hidden ---------------------------------------------------------


@pytest.mark.parametrize("covered, exposed", [(0, 1), (0.25, 0.75), (1, 0), (3, 0)])
def test_a_collective_costs_what_the_work_before_its_end_does_not_cover(
    covered, exposed
):
    text = module(GATHER_START, work("between", covered), GATHER_DONE)
    expected = {OTHER: covered, "all-gather": exposed}
    assert milliseconds(text) == {part: x for part, x in expected.items() if x}


def test_work_outside_of_start_and_end_covers_nothing():
    text = module(work("a", 5), GATHER_START, GATHER_DONE, work("b", 5))
    assert milliseconds(text) == {OTHER: 10, "all-gather": 1}


def test_a_collective_without_a_start_costs_all_of_its_time():
    assert milliseconds(module(work("a", 5), GATHER)) == {OTHER: 5, "all-gather": 1}


def test_collectives_that_share_the_links_wait_for_each_other():
    second = [
        line.replace("%start", "%start.2").replace("%done", "%done.2")
        for line in (GATHER_START, GATHER_DONE)
    ]
    # 1.5 of 2 ms are covered.
    text = module(
        GATHER_START, second[0], work("a", 1.5), GATHER_DONE, second[1], work("b", 9)
    )
    assert milliseconds(text) == {OTHER: 10.5, "all-gather": 0.5}
    assert walked(text).sending == pytest.approx(2e-3)


def test_a_collective_in_fusions_is_covered_by_those_between_its_ends():
    gather = GATHER.replace("%half", "%p")
    computations = "".join(
        f"%{name} (p: bf16[500,1000]) -> bf16[1000,1000] {{\n"
        f"  %p = bf16[500,1000] parameter(0)\n  {gather}\n"
        f"  ROOT %c = bf16[1000,1000] custom-call(%gather), "
        f'custom_call_target="{target}"\n}}\n\n'
        for name, target in (
            ("begin", "AsyncCollectiveStart"),
            ("step", "Any"),
            ("end", "AsyncCollectiveDone"),
        )
    )
    step = work("multiply", 0.4).replace("%none", "%step")
    text = module(
        "%b = bf16[1000,1000] fusion(%half), kind=kCustom, calls=%begin",
        step,
        "%e = bf16[1000,1000] fusion(%b), kind=kCustom, calls=%end",
        computations=computations,
    )
    assert milliseconds(text) == {OTHER: 0.4, "all-gather": 0.6}


def test_a_reduce_scatter_in_a_fusion_costs_all_of_its_time():
    inside = """
%all-reduce-scatter.1 (p: f32[500,1000]) -> f32[250,1000] {
  %p = f32[500,1000] parameter(0)
  %r = f32[500,1000] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  ROOT %s = f32[250,1000] dynamic-slice(%r, %i), dynamic_slice_sizes={250,1000}
}
"""
    call = "%c = f32[250,1000] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1"
    text = module(call, computations=inside)
    assert milliseconds(text) == {"reduce-scatter": 1}


# ---- Loops ------------------------------------------------------------------

BODY = """
%body (a: s32[]) -> s32[] {{
  %half = bf16[500,1000] parameter(0)
  {lines}
}}
"""
LOOP = (
    "%w = s32[] while(%half), condition=%none, body=%body, "
    'backend_config={"known_trip_count":{"n":"7"}}'
)


def test_a_loop_costs_what_its_body_does_as_often_as_it_runs():
    lines = "\n  ".join([GATHER_START, work("a", 0.25), GATHER_DONE, GATHER])
    text = module(LOOP, computations=BODY.format(lines=lines))
    assert milliseconds(text) == {OTHER: 7 * 0.25, "all-gather": 7 * 1.75}


def test_a_loop_covers_what_started_before_it():
    body = BODY.format(lines=work("a", 0.1))
    text = module(GATHER_START, LOOP, GATHER_DONE, computations=body)
    assert milliseconds(text) == {OTHER: 0.7, "all-gather": 0.3}


# ---- Products and memory ----------------------------------------------------

LEFT = "%left = bf16[1000,1000]{1,0:S(1)} parameter(1)"
DOT = (
    "%dot = bf16[1000,1000]{1,0:S(1)} dot(%left, %left), lhs_contracting_dims={1}, "
    "rhs_contracting_dims={0}"
)


def test_a_product_takes_its_flops_or_what_the_compiler_estimates():
    assert milliseconds(module(LEFT, DOT)) == {PRODUCTS: 2}
    slow = DOT + ', backend_config={"estimated_cycles":"3000000"}'
    assert milliseconds(module(LEFT, slow)) == {PRODUCTS: 3}
    too_fast = DOT + ', backend_config={"estimated_cycles":"1000000"}'
    assert milliseconds(module(LEFT, too_fast)) == {PRODUCTS: 2}


def test_without_an_estimate_memory_takes_its_time():
    add = "%sum = f32[500,1000] add(%half, %half)"  # 2 x 1 MB read, 2 MB written.
    assert milliseconds(module(add)) == {OTHER: 4}


@pytest.mark.parametrize(
    "line",
    [
        '%a = f32[9999] custom-call(), custom_call_target="AllocateBuffer"',
        '%a = f32[9999] custom-call(%x), custom_call_target="ConcatBitcast"',
        "%a = f32[9999] bitcast(%half)",
        "%a = (f32[9999]) tuple(%half)",
    ],
)
def test_what_moves_nothing_takes_no_time(line):
    assert milliseconds(module(line)) == {}


def test_a_copy_to_the_chip_has_the_time_in_which_work_leaves_memory_alone():
    start = "%s = (bf16[1000,1000], bf16[1000,1000]{1,0:S(1)}, u32[]) copy-start(%x)"
    done = "%d = bf16[1000,1000]{1,0:S(1)} copy-done(%s)"
    text = module(start, work("a", 0.5), done)
    assert milliseconds(text) == {OTHER: 0.5, COPIES: 1.5}
    busy = "%sum = f32[500,1000] add(%half, %half)"
    assert milliseconds(module(start, busy, done)) == {OTHER: 4, COPIES: 2}


# ---- Links ------------------------------------------------------------------


def torus(*sides):
    """Returns a fabric of chips with four links, the last dimension innermost."""
    places = [()]
    for side in sides:
        places = [(*place, i) for place in places for i in range(side)]
    chip = dataclasses.replace(CHIP, torus_dimensions=2)
    return Fabric(chip=chip, slice_of=[0] * len(places), places=places)


def gathered(members, fabric, size=2_000_000, about=""):
    """Returns the milliseconds in which the devices `members` gather 2 x `size`."""
    group = ",".join(map(str, members))
    line = (
        f"%g = bf16[{size}] all-gather(%half), replica_groups={{{{{group}}}}}, "
        f"dimensions={{0}}{about}"
    )
    return milliseconds(module(line), fabric)["all-gather"].expected


@pytest.mark.parametrize(
    "members, rings",
    [
        (range(16), 1),  # A whole row.
        (range(0, 256, 16), 1),
        (range(256), 2),
        (range(32), 1),  # Around two rows.
        ([0, 1, 16, 17], 1),  # Around a square.
        (range(8), 0.5),  # Half of a row: there and back.
    ],
)
def test_a_ring_has_half_of_four_links(members, rings):
    sent = 4 * (len(members) - 1) / len(members)
    assert gathered(members, torus(16, 16)) == pytest.approx(sent * 2 / rings)


def test_the_ends_of_a_dimension_are_connected_in_a_whole_pod_only():
    assert gathered(range(8), torus(1, 8)) == pytest.approx(4 * 4 * 7 / 8)
    assert gathered(range(16), torus(1, 16)) == pytest.approx(2 * 4 * 15 / 16)
    assert gathered(range(4), torus(2, 2)) == pytest.approx(2 * 4 * 3 / 4)


def test_the_compiler_says_how_many_rings_it_uses():
    about = ', backend_config={"debug":"\\nStrategyND{colors:2 phases:1"}'
    sent = 4 * 31 / 32
    assert gathered(range(32), torus(16, 16), about=about) == pytest.approx(sent)
    # Where ends are not connected, a ring goes there and back on the same links.
    sent = 4 * 63 / 64
    assert gathered(range(64), torus(8, 8), about=about) == pytest.approx(2 * sent)


def test_little_data_takes_a_microsecond_a_hop():
    assert gathered(range(8), torus(1, 8), size=8) == pytest.approx(7e-3)
    assert gathered(range(32), torus(16, 16), size=8) == pytest.approx(16e-3)
    assert gathered(range(256), torus(16, 16), size=8) == pytest.approx(16e-3)


def test_the_network_between_slices_is_another_resource():
    fabric = Fabric(chip=CHIP, slice_of=[0, 1], places=[(), ()])
    ((item, seconds),) = walked(module(GATHER), fabric).seconds.items()
    assert (item.part, item.across_slices) == ("all-gather", True)
    assert seconds == pytest.approx(10e-3)


def test_nothing_is_predicted_without_the_rates_of_the_links():
    unknown = Chip(
        name="unknown", flops_per_second=1e12, memory_bytes_per_second=1e9,
        usable_gib=16,
    )  # fmt: skip
    fabric = Fabric(chip=unknown, slice_of=[0, 0], places=[(), ()])
    assert walked(module(GATHER), fabric).unknown
