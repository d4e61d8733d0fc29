"""Logits whose words come first give the loss of those whose tokens come first."""

import re
import types

import jax
import numpy as np
import pytest

from salt_jax.loss import chunk_logits
from salt_jax.loss.chunk_logits import ChunkLogits
from salt_jax.loss.gates import WhereTeacherRanks
from salt_jax.loss.losses import chunked_salt_loss
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.unembedding import Unembedding

B, L, D, V = 8, 6, 16, 32
MESHES = {
    "one": MeshShape(data=1),
    "data8": MeshShape(data=8),
    "model4": MeshShape(data=2, model=4),
}
OPTIONS = {
    "plain": dict(with_teacher=False),
    "blend": {},
    "softcap": dict(softcap=5.0),
    "warm": dict(temperature=2.0),
    "padding": dict(real_vocab_size=V - 3, temperature=0.5, softcap=5.0),
    "gate": dict(gate=WhereTeacherRanks(k=4)),
    "padded_gate": dict(gate=WhereTeacherRanks(k=4), real_vocab_size=V - 3),
    "z_loss": dict(z_loss=1e-2),
}


def partitioned(shape):
    return Partitioning(mesh=shape.build(jax.devices()[: shape.data * shape.model]))


def unembedding(seed, size_V, softcap=None):
    keys = jax.random.split(jax.random.key(seed), 2)
    hidden_BLD = jax.random.normal(keys[0], (B, L, D))
    return Unembedding(hidden_BLD, jax.random.normal(keys[1], (size_V, D)), softcap)


def have_words_first(monkeypatch, *, block):
    """Has logits lie with words first, and sums `block` words of 6 tokens at once."""
    monkeypatch.setattr(chunk_logits, "MOST_TOKENS_FIRST", 0)
    monkeypatch.setattr(chunk_logits, "OWN_CACHE", 4 * 6 * block)
    monkeypatch.setattr(chunk_logits, "LEAST_BLOCK", 1)


def read(shape, *, with_teacher=True, softcap=None, tokens=6, size_V=V, **options):
    """Returns the metrics and the gradient of a loss, and its program."""
    student = unembedding(0, size_V, softcap)
    teacher = unembedding(1, size_V) if with_teacher else None
    targets_BL = jax.random.randint(jax.random.key(2), (B, L), 0, V - 3)
    weights_BL = jax.random.uniform(jax.random.key(3), (B, L))

    def total(student, targets_BL):
        metrics = chunked_salt_loss(
            student,
            teacher,
            targets_BL,
            weights_BL,
            partitioning=partitioned(shape),
            chunk_tokens=tokens,
            kd_weight=0.6,
            **options,
        )
        return metrics["loss"].total, metrics

    run = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(student, targets_BL)
    compiled = run.compile()
    (_, metrics), gradient = compiled(student, targets_BL)
    outside, _ = compiled(student, targets_BL.at[0, 0].set(size_V))
    return (metrics, gradient), run.as_text(), outside[0]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("options", OPTIONS)
def test_words_first_gives_the_values_and_gradient_of_tokens_first(
    mesh, options, monkeypatch
):
    expected, program, _ = read(MESHES[mesh], **OPTIONS[options])
    have_words_first(monkeypatch, block=4)
    found, changed, outside = read(MESHES[mesh], **OPTIONS[options])
    exponential = r"stablehlo.exponential %\w+ : tensor<4x6xf32>"
    assert re.search(exponential, changed) and not re.search(exponential, program)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    assert np.isnan(outside)  # A target outside the vocabulary is no number.


def test_a_vocabulary_that_no_block_divides_is_summed_whole(monkeypatch):
    expected, _, _ = read(MESHES["one"], size_V=31)
    have_words_first(monkeypatch, block=4)
    monkeypatch.setattr(chunk_logits, "LEAST_BLOCK", 2)
    found, program, _ = read(MESHES["one"], size_V=31)
    assert "tensor<31x6xf32>" in program
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_kernels_keep_their_order(monkeypatch):
    sizes = dict(kernel="interpreted", size_V=256, tokens=48)
    expected, _, _ = read(MESHES["one"], **sizes)
    have_words_first(monkeypatch, block=4)
    found, _, _ = read(MESHES["one"], **sizes)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def logits_of(mesh, size_C, size_V, platform=None):
    partitioning = partitioned(MESHES[mesh])
    if platform is not None:
        device = types.SimpleNamespace(platform=platform)
        shape = partitioning.mesh.shape
        mesh = types.SimpleNamespace(devices=np.array([device]), shape=shape)
        object.__setattr__(partitioning, "mesh", mesh)
    model = Unembedding(
        jax.ShapeDtypeStruct((8, size_C, D), np.float32),
        jax.ShapeDtypeStruct((size_V, D), np.float32),
    )
    return ChunkLogits.of(TokenChunks(partitioning, size_C), model)


@pytest.mark.parametrize(
    ("mesh", "size_C", "size_V", "block"),
    [
        ("one", 128, 131_072, 4096),
        ("data8", 128, 262_144, 4096),
        ("one", 1024, 32_768, 512),
        ("one", 128, 128_256, 4008),
        ("model4", 128, 131_072, 4096),
        ("one", 128, 2**17 - 1, None),  # A prime number.
    ],
)
def test_blocks_divide_the_vocabulary_and_fit_into_a_cache(mesh, size_C, size_V, block):
    logits = logits_of(mesh, size_C, size_V)
    assert (logits.words_first, logits.block) == (True, block)


def test_small_logits_have_tokens_first():
    assert not logits_of("one", 512, 4096).words_first
    assert not logits_of("model4", 128, 4 * 16_384).words_first  # 8 MiB a device.


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_accelerators_have_tokens_first(platform):
    logits = logits_of("one", 128, 131_072, platform)
    assert (logits.words_first, logits.block) == (False, None)
