import pytest

from salt_jax.compiling.hlo import Module
from salt_jax.compiling.work import Worker


def work(*lines, computations=""):
    """Returns the work of the last of `lines`."""
    body = "\n".join(f"  {line}" for line in lines)
    text = f"{computations}\nENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n"
    module = Module.parse(text)
    return Worker(module).work(list(module.computations["main"].values())[-1], "main")


def parameters(*shapes):
    return [f"%p{i} = {shape} parameter({i})" for i, shape in enumerate(shapes)]


# ---- Products ---------------------------------------------------------------


def test_a_dot_multiplies_and_adds():
    dot = "%d = f32[4,8,16] dot(%p0, %p1), lhs_batch_dims={0}, rhs_batch_dims={0}, "
    dot += "lhs_contracting_dims={2}, rhs_contracting_dims={1}"
    shapes = "bf16[4,8,32]", "bf16[4,32,16]"
    assert work(*parameters(*shapes), dot).flops == 2 * 4 * 8 * 16 * 32


@pytest.mark.parametrize(
    "left, right, made, about, flops",
    [
        # As the TPU compiler writes [8 x 1280, 1024] by [1024, 8192].
        ("8,1280,1024", "1024,8192,1", "8,1280,8192",
         "window={size=1}, dim_labels=0bf_io0->0bf", 2 * 8 * 1280 * 1024 * 8192),
        # Heads as a spatial dimension: all but one position is padding.
        ("8,1280,1024,1", "2,64,1024,1", "8,1280,2,64",
         "window={size=1x2 pad=0_0x1_1 rhs_reversal=0x1}, "
         "dim_labels=0bf1_1oi0->0b1f", 2 * 8 * 1280 * 1024 * 128),
        # A batched product, whose batch is a window over holes.
        ("3,5,7", "3,7,11", "3,5,11",
         "window={size=3 stride=2 pad=2_2 lhs_dilate=3}, dim_labels=0bf_0io->0bf",
         2 * 5 * 7 * 11 * 3),
    ],
)  # fmt: skip
def test_a_product_is_a_convolution_without_its_padding(
    left, right, made, about, flops
):
    line = f"%c = f32[{made}] convolution(%p0, %p1), {about}"
    found = work(*parameters(f"bf16[{left}]", f"bf16[{right}]"), line)
    assert found.flops == flops


FUSED = """
%inner (p: bf16[8,32]) -> bf16[8,16] {
  %x = bf16[8,32] parameter(0)
  %y = bf16[32,16] parameter(1)
  ROOT %d = bf16[8,16] dot(%x, %y), lhs_contracting_dims={1}
}

%outer (p: bf16[8,32]) -> bf16[8,4] {
  %x = bf16[8,32] parameter(0)
  %y = bf16[32,16] parameter(1)
  %z = bf16[16,4] parameter(2)
  %f = bf16[8,16] fusion(%x, %y), kind=kOutput, calls=%inner
  ROOT %d = bf16[8,4] dot(%f, %z), lhs_contracting_dims={1}
}
"""


def test_fusions_within_fusions_count():
    lines = parameters("bf16[8,32]", "bf16[32,16]", "bf16[16,4]{1,0:S(1)}")
    call = "%f = bf16[8,4] fusion(%p0, %p1, %p2), kind=kOutput, calls=%outer, "
    call += 'backend_config={"window_config":{"estimated_cycles":"77"}}'
    found = work(*lines, call, computations=FUSED)
    assert found.flops == 2 * 8 * 16 * 32 + 2 * 8 * 4 * 16
    assert found.bytes == 2 * (8 * 32 + 32 * 16 + 8 * 4)  # The third is on the chip.
    assert found.cycles == 77


@pytest.mark.parametrize(
    "name, products", [("fwd_segmented", 2), ("dkv_segmented", 5), ("dq", 3)]
)
def test_attention_counts_its_products_over_all_keys(name, products):
    shapes = ["bf16[2,8,640,128]", "bf16[2,1,1280,128]"]
    line = f"%splash_mha_{name}.1 = bf16[2,8,640,128] custom-call(%p0, %p1)"
    found = work(*parameters(*shapes), line)
    assert found.flops == 2 * products * 2 * 8 * 640 * 1280 * 128


def test_a_kernel_says_what_it_costs():
    about = '"cost_estimate":{"flops":"12345","bytes_accessed":"1"}'
    assert work(f"%k = f32[8] custom-call(), backend_config={{{about}}}").flops == 12345


# ---- Memory -----------------------------------------------------------------

SLICED = """
%slice_of_a_layer (p: f32[92,64]) -> f32[1,64] {
  %x = f32[92,64] parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,64] dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,64}
}

%update_of_a_layer (p: f32[92,64]) -> f32[92,64] {
  %x = f32[92,64] parameter(0)
  %i = s32[] parameter(1)
  %new = f32[1,64] parameter(2)
  ROOT %u = f32[92,64] dynamic-update-slice(%x, %new, %i, %i)
}
"""


def test_of_a_stack_only_the_layer_is_read():
    lines = parameters("f32[92,64]", "s32[]{:S(6)}")
    call = "%f = f32[1,64] fusion(%p0, %p1), kind=kLoop, calls=%slice_of_a_layer"
    assert work(*lines, call, computations=SLICED).bytes == 2 * 4 * 64


def test_in_a_stack_only_the_layer_is_written():
    lines = parameters("f32[92,64]", "s32[]{:S(6)}", "f32[1,64]")
    call = "%f = f32[92,64] fusion(%p0, %p1, %p2), kind=kLoop, calls=%update_of_a_layer"
    assert work(*lines, call, computations=SLICED).bytes == 2 * 4 * 64
    alone = "%u = f32[92,64] dynamic-update-slice(%p0, %p2, %p1, %p1)"
    assert work(*lines, alone).bytes == 2 * 4 * 64
