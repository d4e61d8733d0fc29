"""Flash attention by cuDNN with a mask in memory, for GPUs that cannot do without.

Before Hopper, cuDNN reads no packed documents. JAX then makes a bias of the mask, and
the backward pass a gradient of it: 420 MiB for 64 rows of 1280 tokens, where the scores
of 8 heads in `attention_xla` take 8 GiB.

Dimensions: B batch, L length, M attended length, H heads, G key-value heads,
K head_dim.
"""

from __future__ import annotations

from typing import Literal

import jax

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention_kernels import on_each_device


def cudnn_bias(
    partitioning: Partitioning,
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    implementation: Literal["cudnn", "xla"] = "cudnn",
    *,
    scale: float | None = None,
) -> jax.Array:
    """Returns the attended values_BLHK.

    Args:
      partitioning: The mesh and the rules of the arrays.
      q_BLHK: Queries; head h reads key-value head h // (H // G).
      k_BMGK: Keys.
      v_BMGK: Values.
      mask_BLM: True where the token at L may attend to the one at M.
      implementation: "xla" computes the same values on any device, without cuDNN.
      scale: Multiplies the queries; K ** -0.5 by default.
    """

    def rows(q_BLHK, k_BMGK, v_BMGK, mask_BLM):
        return jax.nn.dot_product_attention(
            q_BLHK,
            k_BMGK,
            v_BMGK,
            mask=mask_BLM[:, None],
            scale=scale,
            implementation=implementation,
        )

    return on_each_device(partitioning, rows, q_BLHK, k_BMGK, v_BMGK, mask_BLM)
