"""Each attention kernel that this device can run, against the formula in float32.

Whole attention layers are compared, with their projections and rotary positions, so
that a kernel is called as models call it. The kernels are those that a model's
`attention` may name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.checkup.oracles import apart, scale_error
from salt_jax.checkup.sizes import Sizes, sizes_of
from salt_jax.checkup.values import Line, Setting, at_most, measured, undone
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.attention import Attention
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.config import ATTENTIONS, TransformerConfig

FORMULA, CHOSEN = "reference", "auto"
ROWS = 4

_Found = Mapping[str, np.ndarray]  # Values and gradients, by name.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is attended to, and by which heads."""

    kv_heads: int | None = None  # None: as many as query heads.
    is_packed: bool = False  # Documents share rows; rows end in padding.
    has_prefix: bool = False
    changes: tuple[tuple[str, Any], ...] = ()  # Of the model.
    chips: int = 1  # That split the heads.


def cases(sizes: Sizes) -> dict[str, Case]:
    """Returns the cases by name."""
    window = (("sliding_window", sizes.window), ("global_every", 2))
    return {
        "causal": Case(),
        "grouped heads": Case(kv_heads=2),
        "packed documents, grouped heads": Case(kv_heads=2, is_packed=True),
        "prefixes, one key-value head": Case(kv_heads=1, has_prefix=True),
        "packed documents with prefixes": Case(is_packed=True, has_prefix=True),
        "window, packed documents": Case(is_packed=True, changes=window),
        "soft cap, packed documents": Case(
            kv_heads=2, is_packed=True, changes=(("attention_softcap", 20.0),)
        ),
        "heads over two chips, packed": Case(kv_heads=2, is_packed=True, chips=2),
    }


def attention(setting: Setting) -> Iterator[Line]:
    """Yields, for each kernel and case, how far values and gradients are off."""
    sizes = sizes_of(setting)
    named = [name for name in ATTENTIONS if name not in (FORMULA, CHOSEN)]
    config = _config(sizes, Case())
    choice = AttentionChoice.of(config, _mesh(1), sizes.length)
    yield measured("the kernel that this device chooses", choice.name)
    used = set()
    for case_name, case in cases(sizes).items():
        if case.chips > jax.device_count():
            yield undone(case_name, f"there is {jax.device_count()} device")
            continue
        config, mesh = _config(sizes, case), _mesh(case.chips)
        batch = _batch(case, sizes.length, mesh)
        params, inputs = _made(config, mesh, batch)
        exact = _run(_changed(config, FORMULA, "float32"), mesh, params, inputs, batch)
        rounded = _run(_changed(config, FORMULA, None), mesh, params, inputs, batch)
        for name in named:
            wanted = _changed(config, name, None)
            try:
                AttentionChoice.of(wanted, mesh, sizes.length)
            except ValueError as error:
                yield undone(f"{name}: {case_name}", str(error))
                continue
            used.add(name)
            found = _run(wanted, mesh, params, inputs, batch)
            yield from _compared(f"{name}: {case_name}", found, rounded, exact)
    unused = sorted(set(named) - used)
    if unused:
        yield undone(f"kernels not of this device: {', '.join(unused)}", "see above")


def _compared(
    what: str, found: _Found, rounded: _Found, exact: _Found
) -> Iterator[Line]:
    """Yields the errors of a kernel, beside those of the formula as rounded."""
    why = "twice the error of the formula in the same dtype, or what rounding may add"
    for part in exact:
        own, limit = apart(found[part], exact[part]), apart(rounded[part], exact[part])
        yield at_most(f"{what}, {part}", own, 2 * limit + 1e-5, why)
        own = scale_error(found[part], exact[part])
        limit = scale_error(rounded[part], exact[part])
        yield at_most(
            f"{what}, {part}, scale",
            own,
            2 * limit + 2e-3,
            "rounding has no bias, and cancels; a wrong factor does not",
        )


def _config(sizes: Sizes, case: Case) -> TransformerConfig:
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


def _changed(
    config: TransformerConfig, kernel: str, dtype: str | None
) -> TransformerConfig:
    dtype = dtype or config.dtype
    return dataclasses.replace(config, attention=kernel, dtype=dtype)


def _mesh(chips: int) -> Partitioning:
    shape = MeshShape(data=1, model=chips)
    return Partitioning(mesh=shape.build(jax.devices()[:chips]))


def _batch(case: Case, length: int, mesh: Partitioning) -> Batch:
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


def _made(
    config: TransformerConfig, mesh: Partitioning, batch: Batch
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Returns parameters, and inputs with a gradient of the outputs."""
    config = _changed(config, FORMULA, "float32")
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (*batch.segments_BL.shape, config.embed_dim)
    # Numbers of bfloat16, so that all dtypes compute the same function.
    x_BLD, pull_BLD = (
        jax.random.normal(key, shape, jnp.bfloat16).astype(jnp.float32)
        for key in keys[:2]
    )
    context = AttentionContext.of(batch, config, mesh)
    params = nn.meta.unbox(
        Attention(config, mesh).init(keys[2], x_BLD, context, None, 0)
    )
    params = jax.tree.map(
        lambda x: (2.0 * x).astype(jnp.bfloat16).astype(jnp.float32), params
    )
    return params, (x_BLD, pull_BLD)


def _run(
    config: TransformerConfig,
    mesh: Partitioning,
    params: Any,
    inputs: tuple[jax.Array, jax.Array],
    batch: Batch,
) -> dict[str, np.ndarray]:
    """Returns the outputs of a layer, and its gradients by inputs and projections."""
    x_BLD, pull_BLD = inputs

    @jax.jit
    def run(params: Any, x_BLD: jax.Array, pull_BLD: jax.Array, batch: Batch) -> Any:
        def layer(params: Any, x_BLD: jax.Array) -> jax.Array:
            context = AttentionContext.of(batch, config, mesh)
            x_BLD = x_BLD.astype(config.dtype)
            out_BLD, _ = Attention(config, mesh).apply(params, x_BLD, context, None, 0)
            return out_BLD.astype(jnp.float32)

        # Outputs at padding mean nothing: models give them no weight.
        out_BLD, pull = jax.vjp(layer, params, x_BLD)
        weights_BL1 = batch.weights_BL[..., None]
        by_params, by_x_BLD = pull(pull_BLD * weights_BL1)
        return out_BLD * weights_BL1, by_params["params"], by_x_BLD

    precision = "highest" if config.dtype == "float32" else None
    with jax.default_matmul_precision(precision):
        out_BLD, by_params, by_x_BLD = jax.device_get(
            run(params, x_BLD, pull_BLD, batch)
        )
    flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(by_params)])
    return {
        "values": np.asarray(out_BLD),
        "gradient by inputs": np.asarray(by_x_BLD),
        "gradient by projections": np.asarray(flat),
    }
