import functools

from salt_jax.model.attention_context import attention_mask
from salt_jax.model.attention_cudnn_bias import cudnn_bias
from tests.examples import partitioning
from tests.model.attention_kernels_test import (
    arrays,
    by_reference,
    check_equal,
    packing,
)


def test_the_mask_means_to_cudnn_what_it_does_to_the_reference():
    rows = packing("packed prefix", length=32)
    mesh = partitioning(4, model=2)
    by_xla = functools.partial(
        cudnn_bias,
        mesh,
        mask_BLM=attention_mask(*rows),
        implementation="xla",
        scale=0.2,
    )
    reference = by_reference(*rows, scale=0.2)
    check_equal(by_xla, reference, arrays(2, head_dim=8, length=32))
