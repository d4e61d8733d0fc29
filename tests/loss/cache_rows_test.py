"""A chunk that is read a few rows at a time gives what whole chunks give."""

import re

import jax
import numpy as np
import pytest

from salt_jax.loss import cache_rows
from salt_jax.loss.gates import WhereTeacherRanks
from salt_jax.loss.losses import chunked_salt_loss
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.unembedding import Unembedding

B, L, D, V = 8, 6, 16, 32
MESHES = {"one": MeshShape(data=1), "data8": MeshShape(data=8)}
OPTIONS = {
    "blend": {},
    "warm": dict(temperature=2.0),
    "padding": dict(real_vocab_size=V - 3, temperature=0.5),
    "gate": dict(gate=WhereTeacherRanks(k=4)),
    "z_loss": dict(z_loss=1e-2),
}


def partitioned(shape):
    count = shape.replica * shape.data * shape.model
    return Partitioning(mesh=shape.build(jax.devices()[:count]))


def unembedding(seed, softcap=None):
    keys = jax.random.split(jax.random.key(seed), 2)
    hidden_BLD = jax.random.normal(keys[0], (B, L, D))
    return Unembedding(hidden_BLD, jax.random.normal(keys[1], (V, D)), softcap)


def few_rows(monkeypatch, rows):
    monkeypatch.setattr(cache_rows, "SHARED_CACHE", 0)
    monkeypatch.setattr(cache_rows, "OWN_CACHE", 4 * V * rows)


def read(shape, *, with_teacher=True, softcap=None, **options):
    """Returns the metrics, the gradient and the program of a loss."""
    student = unembedding(0, softcap)
    teacher = unembedding(1) if with_teacher else None
    targets_BL = jax.random.randint(jax.random.key(2), (B, L), 0, V - 3)
    weights_BL = jax.random.uniform(jax.random.key(3), (B, L))

    def total(student):
        metrics = chunked_salt_loss(
            student,
            teacher,
            targets_BL,
            weights_BL,
            partitioning=partitioned(shape),
            chunk_tokens=24 * shape.data,
            kd_weight=0.6,
            **options,
        )
        return metrics["loss"].total, metrics

    run = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(student)
    (_, metrics), gradient = run.compile()(student)
    return metrics, gradient, run.as_text()


def assert_equal(found, whole, rows):
    """Compares what was read `rows` at a time with what was read whole."""
    exponentials = f"stablehlo.exponential %\\w+ : tensor<{rows}x{V}xf32>"
    assert re.search(exponentials, found[2])
    assert not re.search(exponentials, whole[2])
    for one, other in zip(
        jax.tree.leaves(found[:2]), jax.tree.leaves(whole[:2]), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_few_rows_at_a_time_give_the_values_and_gradient_of_all(
    monkeypatch, mesh, options
):
    whole = read(MESHES[mesh], softcap=5.0, **OPTIONS[options])
    few_rows(monkeypatch, 3)
    found = read(MESHES[mesh], softcap=5.0, **OPTIONS[options])
    assert_equal(found, whole, 3)


def test_a_plain_step_is_read_a_few_rows_at_a_time(monkeypatch):
    whole = read(MESHES["one"], with_teacher=False)
    few_rows(monkeypatch, 4)
    found = read(MESHES["one"], with_teacher=False)
    assert_equal(found, whole, 4)


@pytest.mark.parametrize(
    "mesh, size_C, size_V, rows",
    [
        (MeshShape(data=1), 128, 131_072, 4),
        (MeshShape(data=8), 128, 262_144, 2),
        (MeshShape(data=1), 126, 131_072, 3),
        (MeshShape(data=1), 127, 131_072, None),  # A prime number of rows.
        (MeshShape(data=1), 128, 32_768, None),  # The cache that cores share has it.
        (MeshShape(data=1), 128, 2**20, None),  # Not even two rows fit.
        (MeshShape(data=2, model=4), 128, 131_072, None),  # Its sums are exchanged.
    ],
)
def test_rows_divide_the_chunk_and_fit_into_a_cache(mesh, size_C, size_V, rows):
    chunks = TokenChunks(partitioned(mesh), size_C)
    assert cache_rows._rows(chunks, size_C, size_V) == rows
