"""The loss on the device: against its formula, and chunked beside dense.

Dimensions: B batch, L length, D embed, V vocabulary, T all tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salt_jax.checkup import oracles
from salt_jax.checkup.device_rates import seconds_of
from salt_jax.checkup.oracles import apart, scale_error
from salt_jax.checkup.sizes import sizes_of
from salt_jax.checkup.values import Line, Setting, aim, at_most, measured
from salt_jax.loss.losses import chunked_salt_loss, salt_loss
from salt_jax.mesh.memory import GIB
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.unembedding import Unembedding

ROWS, LENGTH = 8, 32
KD_WEIGHTS = (0.0, 0.667, 1.0)  # Cross-entropy alone, both, distillation alone.
TEMPERATURE = 0.5
EXACT = "products of bfloat16 numbers are exact, sums float32"
ROUNDED = "a chip rounds the gradient of logits to bfloat16: 2^-9 for each factor"
UNBIASED = "rounding has no bias, and cancels; a wrong factor does not"


def loss(setting: Setting) -> Iterator[Line]:
    """Yields values and gradients of both losses, against float64 on the host."""
    sizes = sizes_of(setting)
    rows = max(ROWS, jax.device_count())
    student = _unembedding(0, rows, sizes.oracle_width, sizes.oracle_vocab)
    teacher = _unembedding(1, rows, sizes.oracle_width // 2, sizes.oracle_vocab)
    targets_BL, weights_BL = _tokens(rows, LENGTH, sizes.oracle_vocab)
    for name, function in _losses().items():
        run = _differentiated(function, temperature=TEMPERATURE)
        for kd_weight in KD_WEIGHTS:
            arguments = (student, teacher, targets_BL, weights_BL)
            metrics, gradient = run(*arguments, kd_weight)
            expected = oracles.blend(
                _on_host(student),
                _on_host(teacher),
                np.asarray(targets_BL).ravel(),
                np.asarray(weights_BL).ravel(),
                kd_weight=kd_weight,
                temperature=TEMPERATURE,
            )
            where = f"{name}, kd_weight {kd_weight:g}, temperature {TEMPERATURE:g}"
            yield from _compared(where, metrics, gradient, expected)
    yield from _without_teacher(student, targets_BL, weights_BL)


def loss_cost(setting: Setting) -> Iterator[Line]:
    """Yields time and memory of the chunked loss beside the dense one."""
    sizes = sizes_of(setting)
    model, tokens = sizes.student, sizes.loss_tokens
    student = _unembedding(0, 1, model.embed_dim, model.vocab_size, length=tokens)
    teacher = _unembedding(
        1, 1, sizes.teacher.embed_dim, model.vocab_size, length=tokens
    )
    arguments = (student, teacher, *_tokens(1, tokens, model.vocab_size), 0.667)
    yield measured(
        "tokens x vocabulary", f"{tokens:,} x {model.vocab_size:,}", "on one device"
    )
    found = {}
    one = Partitioning(mesh=MeshShape(data=1).build(jax.devices()[:1]))
    chunk = min(sizes.chunk_tokens, tokens // 4)
    for name, function in {
        "dense": _dense,
        "chunked": functools.partial(_chunked, one, chunk),
    }.items():
        program = _differentiated(function).lower(*arguments).compile()
        memory: Any = program.memory_analysis()
        held = memory.temp_size_in_bytes + memory.output_size_in_bytes
        seconds = seconds_of(functools.partial(program, *arguments))
        found[name] = seconds, held
        yield measured(f"{name}, loss and gradient", 1000 * seconds, "ms")
        yield measured(f"{name}, results and temporaries", held / GIB, "GiB")
    seconds, held = (a / b for a, b in zip(*found.values(), strict=True))
    yield aim(
        "chunked / dense, time",
        1 / seconds,
        0.0,
        1.25,
        "no logits are computed twice; chunks add reading the embeddings again",
    )
    yield at_most(
        "chunked / dense, memory",
        1 / held,
        0.8,
        "a quarter of the logits at a time, and the gradients, which both hold",
    )


def _compared(
    where: str, metrics: Any, gradient: Unembedding, expected: oracles.Blend
) -> Iterator[Line]:
    values = max(
        abs(float(metrics[name].total) / value - 1.0)
        for name, value in expected.values.items()
        if abs(value) > 1e-6
    )
    yield at_most(f"{where}: values", values, 1e-4, EXACT)
    pairs = (
        ("hidden states", gradient.hidden_BLD, expected.hidden_TD),
        ("embedding", gradient.embedding_VD, expected.embedding_VD),
    )
    for name, array, wanted in pairs:
        found = np.asarray(array, np.float64).reshape(wanted.shape)
        part = f"{where}: gradient by {name}"
        yield at_most(part, apart(found, wanted), 2.0**-8, ROUNDED)
        yield at_most(f"{part}, scale", scale_error(found, wanted), 1e-3, UNBIASED)


def _without_teacher(
    student: Unembedding, targets_BL: jax.Array, weights_BL: jax.Array
) -> Iterator[Line]:
    expected = oracles.blend(
        _on_host(student),
        None,
        np.asarray(targets_BL).ravel(),
        np.asarray(weights_BL).ravel(),
        kd_weight=0.0,
        temperature=1.0,
    )
    for name, function in _losses().items():
        run = _differentiated(function)
        metrics, gradient = run(student, None, targets_BL, weights_BL, 0.0)
        yield from _compared(f"{name}, no teacher", metrics, gradient, expected)


def _losses() -> dict[str, Callable[..., Any]]:
    """Returns the losses by name: dense, and chunked on each mesh of these devices."""
    meshes = {"": MeshShape()}
    if jax.device_count() % 2 == 0:
        meshes[", vocabulary split in two"] = MeshShape(model=2)
    losses: dict[str, Callable[..., Any]] = {"dense": _dense}
    for name, shape in meshes.items():
        mesh = Partitioning(mesh=shape.build())
        losses[f"chunked{name}"] = functools.partial(_chunked, mesh, 64)
    return losses


def _dense(student, teacher, targets_BL, weights_BL, **options):
    teacher_BLV = None if teacher is None else teacher.logits()
    return salt_loss(student.logits(), teacher_BLV, targets_BL, weights_BL, **options)


def _chunked(partitioning, chunk_tokens, *arguments, **options):
    return chunked_salt_loss(
        *arguments, partitioning=partitioning, chunk_tokens=chunk_tokens, **options
    )


def _differentiated(function, **static):
    """Returns `function` compiled: its metrics, and the gradient by the student."""

    def total(student, teacher, targets_BL, weights_BL, kd_weight):
        metrics = function(
            student, teacher, targets_BL, weights_BL, kd_weight=kd_weight, **static
        )
        return metrics["loss"].total, metrics

    def run(*arguments):
        (_, metrics), gradient = jax.value_and_grad(total, has_aux=True)(*arguments)
        return metrics, gradient

    return jax.jit(run)


def _unembedding(
    seed: int, rows: int, width: int, vocab: int, *, length: int = LENGTH
) -> Unembedding:
    """Hidden states, and an embedding whose numbers are bfloat16's, though float32.

    Logits spread by about 3: a peaked distribution, as that of a trained model.
    """
    draw = np.random.default_rng(seed)
    shape = (rows, length, width)
    hidden_BLD = jnp.asarray(draw.standard_normal(shape, np.float32), jnp.bfloat16)
    embedding_VD = draw.standard_normal((vocab, width), np.float32)
    rounded_VD = jnp.asarray(3.0 * width**-0.5 * embedding_VD, jnp.bfloat16)
    return Unembedding(hidden_BLD, rounded_VD.astype(jnp.float32))


def _tokens(rows: int, length: int, vocab: int) -> tuple[jax.Array, jax.Array]:
    """Returns targets, and weights of which some are 0 and some not whole."""
    draw = np.random.default_rng(7)
    targets_BL = draw.integers(vocab, size=(rows, length), dtype=np.int32)
    weights_BL = draw.random((rows, length), np.float32)
    weights_BL[weights_BL < 0.1] = 0.0
    return jnp.asarray(targets_BL), jnp.asarray(weights_BL)


def _on_host(model: Unembedding) -> tuple[np.ndarray, np.ndarray]:
    width = model.hidden_BLD.shape[-1]
    hidden_TD = np.asarray(model.hidden_BLD, np.float64).reshape(-1, width)
    return hidden_TD, np.asarray(model.embedding_VD, np.float64)
