"""What attention layers are compared on: masks, heads, parameters and inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.checkup.sizes import Sizes
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.attention import Attention
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.config import TransformerConfig

FORMULA = "reference"
ROWS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is attended to, and by which heads."""

    kv_heads: int | None = None  # None: as many as query heads.
    is_packed: bool = False  # Documents share rows; rows end in padding.
    has_prefix: bool = False
    changes: tuple[tuple[str, Any], ...] = ()  # Of the model.
    chips: int = 1  # That split the heads.
    layer: int = 0  # With a window, layer 0 is local and layer 1 global.
    is_small: bool = True  # Whether small sizes have it too.


def cases(sizes: Sizes) -> dict[str, Case]:
    """Returns the cases by name."""
    window = (("sliding_window", sizes.window), ("global_every", 2))
    softcap = (("attention_softcap", 20.0),)
    return {
        "causal": Case(),
        "grouped heads": Case(kv_heads=2, is_small=False),
        "packed documents, grouped heads": Case(
            kv_heads=2, is_packed=True, is_small=False
        ),
        "prefixes, one key-value head": Case(
            kv_heads=1, has_prefix=True, is_small=False
        ),
        "packed documents with prefixes": Case(
            kv_heads=2, is_packed=True, has_prefix=True
        ),
        "window, packed documents": Case(is_packed=True, changes=window),
        "global layer of a model with a window": Case(
            is_packed=True, changes=window, layer=1, is_small=False
        ),
        "soft cap, packed documents": Case(kv_heads=2, is_packed=True, changes=softcap),
        "heads over two chips, packed": Case(kv_heads=2, is_packed=True, chips=2),
    }


def config_of(sizes: Sizes, case: Case) -> TransformerConfig:
    """Returns the model whose layer is compared."""
    return TransformerConfig(
        vocab_size=8,
        num_layers=2,
        embed_dim=sizes.heads * sizes.head_dim // 2,
        num_heads=sizes.heads,
        num_kv_heads=case.kv_heads or sizes.heads,
        head_dim=sizes.head_dim,
        mlp_dim=8,
        dtype="bfloat16",
        **dict(case.changes),
    )


def mesh_of(chips: int) -> Partitioning:
    """Returns a mesh of the first `chips` devices, which split the heads."""
    shape = MeshShape(data=1, model=chips)
    return Partitioning(mesh=shape.build(jax.devices()[:chips]))


def batch_of(case: Case, length: int, mesh: Partitioning) -> Batch:
    """Returns rows of one document, or of two and padding; a third is prefix."""
    column_1L = np.arange(length)[None]
    cut_B1 = (np.array([[2], [3], [4], [5]]) * length) // 7
    is_second_BL = np.broadcast_to(column_1L >= cut_B1, (ROWS, length))
    segments_BL = 1 + is_second_BL if case.is_packed else np.ones((ROWS, length))
    begin_BL = np.where(is_second_BL, cut_B1, 0) if case.is_packed else 0
    if case.is_packed:
        segments_BL = np.where(column_1L >= length - length // 20, 0, segments_BL)
    positions_BL = np.broadcast_to(column_1L - begin_BL, (ROWS, length))
    prefix_BL = (positions_BL < length // 6) & (segments_BL > 0)
    zeros_BL = np.zeros((ROWS, length), np.int32)
    fields: dict[str, Any] = dict(
        tokens_BL=zeros_BL,
        targets_BL=zeros_BL,
        weights_BL=(segments_BL > 0).astype(np.float32),
        segments_BL=segments_BL.astype(np.int32),
        positions_BL=positions_BL.astype(np.int32),
        prefix_BL=prefix_BL if case.has_prefix else None,
    )
    return jax.device_put(Batch(**fields), mesh.sharding("batch", None))


def made(
    config: TransformerConfig, mesh: Partitioning, batch: Batch
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Returns parameters, and inputs with a gradient of the outputs."""
    config = dataclasses.replace(config, attention=FORMULA, dtype="float32")
    draw = np.random.default_rng(0)
    shape = (*batch.segments_BL.shape, config.embed_dim)
    x_BLD, pull_BLD = (_rounded(draw.standard_normal(shape)) for _ in range(2))
    context = AttentionContext.of(batch, config, mesh)
    layer = Attention(config, mesh)
    boxed = jax.eval_shape(layer.init, jax.random.key(0), x_BLD, context, None, 0)

    def fill(like: Any) -> jax.Array:
        # Scores spread by about 2: attention that is neither flat nor one token.
        scale = 1.5 * config.embed_dim**-0.5
        return _rounded(scale * draw.standard_normal(like.shape))

    params = jax.tree.map(fill, nn.meta.unbox(boxed))
    return params, (x_BLD, pull_BLD)


def _rounded(x: np.ndarray) -> jax.Array:
    """Returns numbers of bfloat16 as float32: all dtypes compute the same function."""
    return jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)
