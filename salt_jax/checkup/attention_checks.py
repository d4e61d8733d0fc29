"""Each attention kernel that this device can run, against the formula in float32.

Whole attention layers are compared, with their projections and rotary positions, so
that a kernel is called as models call it. The kernels are those that a model's
`attention` may name.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.batch import Batch
from salt_jax.checkup.attention_cases import (
    FORMULA,
    Case,
    batch_of,
    cases,
    config_of,
    made,
    mesh_of,
)
from salt_jax.checkup.device_rates import seconds_of
from salt_jax.checkup.oracles import apart, scale_error
from salt_jax.checkup.sizes import Sizes, sizes_of
from salt_jax.checkup.values import Line, Setting, at_most, measured, undone
from salt_jax.mesh.partitioning import Partitioning
from salt_jax.model.attention import Attention
from salt_jax.model.attention_choice import AttentionChoice
from salt_jax.model.attention_context import AttentionContext
from salt_jax.model.config import ATTENTIONS, TransformerConfig

CHOSEN = "auto"
EXACT = "reference in float32"
_Found = Mapping[str, np.ndarray]  # Values and gradients, by name.


def attention(setting: Setting) -> Iterator[Line]:
    """Yields, for each kernel and case, how far values and gradients are off."""
    sizes = sizes_of(setting)
    choice = AttentionChoice.of(config_of(sizes, Case()), mesh_of(1), sizes.length)
    yield measured("the kernel that this device chooses", choice.name)
    works: dict[tuple[str, str], _Work] = {}
    for case_name, case in cases(sizes).items():
        if setting.small and not case.is_small:
            continue
        if case.chips > jax.device_count():
            yield undone(case_name, f"{jax.device_count()} device is here")
            continue
        for name, work in _works(sizes, case).items():
            if isinstance(work, str):
                yield undone(f"{name}: {case_name}", work)
            else:
                works[case_name, name] = work
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = dict(
            zip(works, pool.map(_Work.compile, works.values()), strict=True)
        )
    for case_name, name in works:
        if name in (EXACT, FORMULA):
            continue
        what = f"{name}: {case_name}"
        run = compiled[case_name, name]
        exact, rounded = (_on_host(compiled[case_name, x]()) for x in (EXACT, FORMULA))
        yield from _compared(what, _on_host(run()), rounded, exact)
        seconds = seconds_of(run, repeats=3)
        yield measured(f"{what}, time of the layer", 1000 * seconds, "ms")


def _works(sizes: Sizes, case: Case) -> dict[str, _Work | str]:
    """Returns the work of each kernel, or why the device cannot do it."""
    config, mesh = config_of(sizes, case), mesh_of(case.chips)
    batch = batch_of(case, sizes.length, mesh)
    params, inputs = made(config, mesh, batch)

    def work(kernel: str, dtype: str) -> _Work:
        changed = dataclasses.replace(config, attention=kernel, dtype=dtype)
        return _Work(changed, mesh, case.layer, (params, *inputs, batch))

    works: dict[str, _Work | str] = {
        EXACT: work(FORMULA, "float32"),
        FORMULA: work(FORMULA, config.dtype),
    }
    for name in ATTENTIONS:
        if name in (FORMULA, CHOSEN):
            continue
        wanted = work(name, config.dtype)
        prefix = case.has_prefix
        try:
            AttentionChoice.of(wanted.config, mesh, sizes.length, has_prefix=prefix)
            works[name] = wanted
        except ValueError as error:
            works[name] = str(error)
    return works


@dataclasses.dataclass(frozen=True)
class _Work:
    """A layer, its gradients, and what it is given."""

    config: TransformerConfig
    mesh: Partitioning
    layer: int
    arguments: tuple[Any, ...]

    def compile(self) -> Callable[[], dict[str, jax.Array]]:
        """Returns a function that runs the layer."""
        precision = "highest" if self.config.dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            layer = jnp.int32(self.layer)  # Traced, as in a scan over layers.
            program = jax.jit(self._run).lower(*self.arguments, layer).compile()
        return functools.partial(program, *self.arguments, layer)

    def _run(
        self,
        params: Any,
        x_BLD: jax.Array,
        pull_BLD: jax.Array,
        batch: Batch,
        layer: jax.Array,
    ) -> dict[str, jax.Array]:
        """Returns outputs, and gradients by inputs and projections."""

        def outputs(params: Any, x_BLD: jax.Array) -> jax.Array:
            context = AttentionContext.of(batch, self.config, self.mesh)
            attend = Attention(self.config, self.mesh).apply
            x_BLD = x_BLD.astype(self.config.dtype)
            out_BLD, _ = attend(params, x_BLD, context, None, layer)
            return out_BLD.astype(jnp.float32)

        # Outputs at padding mean nothing: models give them no weight.
        out_BLD, pull = jax.vjp(outputs, params, x_BLD)
        weights_BL1 = batch.weights_BL[..., None]
        by_params, by_x_BLD = pull(pull_BLD * weights_BL1)
        leaves = jax.tree.leaves(by_params["params"])
        return {
            "values": out_BLD * weights_BL1,
            "gradient by inputs": by_x_BLD,
            "gradient by projections": jnp.concatenate([x.ravel() for x in leaves]),
        }


def _on_host(found: Mapping[str, jax.Array]) -> _Found:
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


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
