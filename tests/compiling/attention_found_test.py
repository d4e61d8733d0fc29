import jax
import pytest

from salt_jax.compiling.attention_found import attention_kernels
from tests.examples import packed_batch, small_model


@pytest.mark.parametrize("name", ["xla", "reference"])
def test_a_program_tells_by_which_operations_it_attends(name):
    model, params = small_model(attention=name)
    text = jax.jit(model.apply).lower(params, packed_batch()).compile().as_text()
    assert attention_kernels(text) == [name]


@pytest.mark.parametrize(
    "line, name",
    [
        (
            "%f = (bf16[8,1,32,8], f32[2,1,32], u8[0]) custom-call(%q, %k, %v), "
            'custom_call_target="__cudnn$fmhaSoftmax"',
            "cudnn",
        ),
        (
            '%f = custom-call(%q), custom_call_target="__cudnn$fmhaScaleBiasSoftmax"',
            "cudnn_bias",
        ),
        (
            '%s = custom-call(%q), custom_call_target="tpu_custom_call", metadata='
            '{op_name="jit(f)/splash_mha_fwd_segmented"}',
            "splash",
        ),
    ],
)
def test_a_kernel_is_told_by_its_custom_call(line, name):
    assert attention_kernels(line) == [name]
