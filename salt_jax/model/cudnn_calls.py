"""XLA's custom calls for cuDNN's flash attention over segments of any length.

JAX has no public function for them. They were compiled for H100, H200 and B200, with
XLA's cuDNN 9, and never run.

Dimensions: B batch, L length, H heads, G key-value heads, K head_dim, M segments per
row. Segments need not be in their own row; they are numbered over all rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.config import TransformerConfig

QKV = tuple[jax.Array, jax.Array, jax.Array]  # q_BLHK, k_BLGK and v_BLGK.

_LAYOUT = (0, 2, 1, 3)  # Of [B, H, L, K]: the heads of a token are next to each other.


@dataclasses.dataclass(frozen=True)
class Segments:
    """Where each of B x M segments is."""

    lengths_BM: jax.Array  # int32, tokens.
    begins_Bm: jax.Array  # int32, m = M + 1; over all rows, in tokens.

    def operands(self, q_BLHK: jax.Array, k_BLGK: jax.Array) -> list[jax.Array]:
        """Returns the lengths and offsets of queries and of keys.

        Offsets are in elements: the stride of a token differs with the heads.
        """
        strides = [x.shape[2] * x.shape[3] for x in (q_BLHK, k_BLGK)]
        offsets = [self.begins_Bm * stride for stride in strides]
        return [self.lengths_BM, self.lengths_BM, *offsets]


@dataclasses.dataclass(frozen=True)
class FlashAttention:
    """What the calls of both directions are told."""

    scale: float
    is_causal: bool
    window: int | None = None

    def forward(
        self, q_k_v: QKV, segments: Segments, *, with_statistics: bool
    ) -> list[jax.Array]:
        """Returns the output_BLHK and, if wanted, statistics for the backward call.

        The output is anything at tokens of no segment.
        """
        q_BLHK, k_BLGK, _ = q_k_v
        _, L, H, _ = q_BLHK.shape
        results = [_heads_first(q_BLHK)]
        if with_statistics:
            count = segments.lengths_BM.size
            results.append(jax.ShapeDtypeStruct((count, H, L), jnp.float32))
        operands = [*q_k_v, *segments.operands(q_BLHK, k_BLGK)]
        out_BHLK, *statistics = self._call("__cudnn$fmhaSoftmax", operands, results)
        return [out_BHLK.swapaxes(1, 2), *statistics]

    def backward(
        self,
        q_k_v: QKV,
        segments: Segments,
        statistics: jax.Array,
        out_BLHK: jax.Array,
        gradient_BLHK: jax.Array,
    ) -> list[jax.Array]:
        """Returns the gradients of queries, keys and values.

        They are anything at tokens of no segment.
        """
        operands = [*q_k_v, statistics, gradient_BLHK, out_BLHK]
        operands += segments.operands(*q_k_v[:2])
        results = [_heads_first(x) for x in q_k_v]
        gradients = self._call("__cudnn$fmhaSoftmaxBackward", operands, results)
        return [x.swapaxes(1, 2) for x in gradients]

    def _call(
        self,
        target: str,
        operands: Sequence[jax.Array],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> list[jax.Array]:
        layouts = [_LAYOUT if x.ndim == 4 else None for x in results]
        workspace = jax.ShapeDtypeStruct((0,), jnp.uint8)  # XLA sets its size.
        call = jax.ffi.ffi_call(
            target,
            [*results, workspace],
            output_layouts=[*layouts, None],
            vmap_method="sequential",
            custom_call_api_version=2,
            legacy_backend_config=self._config(operands),
        )
        return list(call(*operands))[:-1]

    def _config(self, operands: Sequence[jax.Array]) -> str:
        """Returns XLA's GpuBackendConfig, as JSON."""
        B, L, H, _ = operands[0].shape
        config = {
            "fmha_scale": self.scale,
            "intermediate_tensor_shape": {
                "element_type": "BF16",
                "dimensions": [str(size) for size in (B, H, L, L)],
                "layout": {"minor_to_major": ["3", "2", "1", "0"]},
                "is_dynamic_dimension": [False] * 4,
            },
            "is_flash_attention": True,
            "mask_type": "PADDING_CAUSAL" if self.is_causal else "PADDING",
            "sliding_window_length": self.window or 0,
            "max_seg_per_batch": operands[-1].shape[1] - 1,
            "dropout_rate": 0.0,
            "seed": 0,
            # Queries, keys and values are [B, L, H, K], scores [B, H, L, L].
            "bmm1_dot_dimension_numbers": _product(3, 3, 2, 2),
            "bmm2_dot_dimension_numbers": _product(3, 1, 1, 2),
            "bmm1_grad_gemm1_dot_dimension_numbers": _product(2, 1, 1, 2),
            "bmm1_grad_gemm2_dot_dimension_numbers": _product(3, 1, 1, 2),
            "bmm2_grad_gemm1_dot_dimension_numbers": _product(2, 1, 1, 2),
            "bmm2_grad_gemm2_dot_dimension_numbers": _product(3, 3, 2, 2),
        }
        whole = {"operation_queue_id": "0", "cudnn_fmha_backend_config": config}
        return json.dumps(whole)


def check_countable(
    config: TransformerConfig, partitioning: Partitioning, tokens: int
) -> None:
    """Checks that cuDNN can count the queries of the `tokens` of a device.

    Raises:
      ValueError: they have 2 ** 31 elements or more.
    """
    heads = config.num_heads // partitioning.compute_size("heads")
    if tokens * heads * config.head_dim >= 2**31:
        raise ValueError(
            f"A device has queries for {tokens:,} tokens x {heads} heads x "
            f"{config.head_dim}, and cuDNN counts elements in 32 bits: use more "
            "num_microbatches."
        )


def _product(
    summed: int, other_summed: int, heads: int, other_heads: int
) -> dict[str, list[str]]:
    """Returns the dimension numbers of a product, for each batch and head."""
    return {
        "lhs_contracting_dimensions": [str(summed)],
        "rhs_contracting_dimensions": [str(other_summed)],
        "lhs_batch_dimensions": ["0", str(heads)],
        "rhs_batch_dimensions": ["0", str(other_heads)],
    }


def _heads_first(x_BLHK: jax.Array) -> jax.ShapeDtypeStruct:
    B, L, H, K = x_BLHK.shape
    return jax.ShapeDtypeStruct((B, H, L, K), x_BLHK.dtype)
