"""Facts about the loss by kernels, run by JAX: its numbers are the dense oracle's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.loss.gates import WhereTeacherRanks
from salt_jax.loss.kernel_blocks import KernelBlocks
from salt_jax.loss.kernel_choice import LossKernel
from salt_jax.loss.lane_statistics import LaneStatistics
from salt_jax.loss.losses import chunked_salt_loss, salt_loss
from salt_jax.loss.statistics_kernel import StatisticsKernel
from salt_jax.loss.token_chunks import TokenChunks
from salt_jax.loss.token_statistics import chunked_token_statistics
from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.mesh.vocab_shards import VocabShards
from salt_jax.model.unembedding import Unembedding

# Several blocks of tokens and of the vocabulary on one device and on eight.
B, L, D, TEACHER_D, V, REAL = 8, 8, 16, 24, 1536, 1300
SHARED = dict(batch=("replica", "data", "model"))


def partitioned(*, data=1, model=1, **rules):
    shape = MeshShape(data=data, model=model)
    mesh = shape.build(jax.devices()[: data * model])
    return Partitioning(mesh=mesh, rules=AxisRules(**rules))


def unembedding(seed, width, softcap=None, scale=0.5):
    keys = jax.random.split(jax.random.key(seed), 2)
    hidden_BLD = jax.random.normal(keys[0], (B, L, width))
    embedding_VD = scale * jax.random.normal(keys[1], (V, width))
    return Unembedding(hidden_BLD, embedding_VD, softcap)


def tokens():
    keys = jax.random.split(jax.random.key(7), 2)
    targets_BL = jax.random.randint(keys[0], (B, L), 0, REAL)
    weights_BL = jax.random.uniform(keys[1], (B, L))
    return targets_BL, weights_BL.at[0, 1:].set(0.0)


def dense(student, teacher, **blend):
    teacher_BLV = None if teacher is None else teacher.logits()
    return salt_loss(student.logits(), teacher_BLV, *tokens(), **blend)


def by_kernels(student, teacher, **options):
    return chunked_salt_loss(
        student, teacher, *tokens(), kernel="interpreted", chunk_tokens=32, **options
    )


def differentiated(loss, student, teacher, **options):
    def total(student):
        metrics = loss(student, teacher, **options)
        return metrics["loss"].total, metrics

    return jax.jit(jax.value_and_grad(total, has_aux=True))(student)


def assert_is_the_oracle(student, teacher, partitioning, **blend):
    (_, found), gradient = differentiated(
        by_kernels, student, teacher, partitioning=partitioning, **blend
    )
    (_, expected), oracle = differentiated(dense, student, teacher, **blend)
    assert found.keys() == expected.keys()
    for name, mean in expected.items():
        np.testing.assert_allclose(
            found[name].total, mean.total, rtol=1e-5, atol=1e-5, err_msg=name
        )
    for x, y in zip(*map(jax.tree.leaves, (gradient, oracle)), strict=True):
        assert np.abs(x - y).max() <= 1e-5 * np.abs(y).max()


def test_kernels_give_every_metric_and_gradient_of_the_dense_loss():
    student, teacher = unembedding(0, D), unembedding(1, TEACHER_D)
    assert_is_the_oracle(student, teacher, partitioned(), kd_weight=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kd_weight", [0.0, 1.0])
def test_kernels_have_all_options_on_a_mesh_that_shares_tokens(kd_weight):
    student, teacher = unembedding(0, D, 4.0), unembedding(1, TEACHER_D, 4.0)
    assert_is_the_oracle(
        student,
        teacher,
        partitioned(data=2, model=4, **SHARED),
        kd_weight=kd_weight,
        temperature=0.5,
        real_vocab_size=REAL,
        gate=WhereTeacherRanks(k=300),
        z_loss=1e-2,
    )


@pytest.mark.slow
def test_peaked_logits_and_no_teacher_lose_nothing():
    student = unembedding(0, D, scale=8.0)
    assert_is_the_oracle(student, None, partitioned(model=4))


@pytest.mark.slow
def test_a_target_outside_the_vocabulary_makes_metrics_nan_and_no_other_gradient():
    student, teacher = unembedding(0, D), unembedding(1, TEACHER_D)
    targets_BL, weights_BL = tokens()
    run = lambda targets_BL: jax.jit(
        lambda student: chunked_salt_loss(
            *(student, teacher, targets_BL, weights_BL),
            partitioning=partitioned(),
            chunk_tokens=32,
            kernel="interpreted",
        )
    )(student)
    found = run(targets_BL.at[3, 3].set(V))
    assert np.isnan(found["ce"].total) and np.isnan(found["teacher_ce"].total)
    assert found["kd"].total == run(targets_BL)["kd"].total


@pytest.mark.parametrize("real_vocab_size", [None, REAL])
def test_statistics_without_logits_in_memory_are_those_of_plain_operations(
    real_vocab_size,
):
    student = unembedding(0, D, 4.0)

    def read(kernel):
        return jax.jit(
            functools.partial(
                chunked_token_statistics,
                partitioning=partitioned(model=4),
                chunk_tokens=32,
                real_vocab_size=real_vocab_size,
                kernel=kernel,
            )
        )(student, tokens()[0])

    found, expected = read("interpreted"), read("xla")
    np.testing.assert_allclose(found.ce_BL, expected.ce_BL, rtol=1e-5)
    np.testing.assert_allclose(found.entropy_BL, expected.entropy_BL, rtol=1e-5)
    np.testing.assert_array_equal(found.rank_BL, expected.rank_BL)


def test_lanes_begin_below_every_logit_and_merge_cores():
    """Logits far below zero, in two cores' parts of the vocabulary."""
    statistics = LaneStatistics(with_entropy=True)
    kernel = StatisticsKernel(
        statistics,
        KernelBlocks(least_tokens=16, num_cores=2, interpret=True),
        keeps_logits=True,
    )
    hidden_CD = jnp.ones((16, 1))
    embedding_VD = -1e4 - jnp.arange(512.0)[:, None]
    model = Unembedding(hidden_CD, embedding_VD)
    targets_C = jnp.arange(16) * 30
    lanes, (logits_CV,) = jax.jit(kernel.run, static_argnums=2)(
        (model,), targets_C, 512
    )
    np.testing.assert_array_equal(logits_CV, hidden_CD @ embedding_VD.T)
    whole = partitioned(vocab=None, act_vocab=None)
    found = statistics.merged(lanes, VocabShards(whole))
    np.testing.assert_allclose(found["p"], 1 / (1 - np.exp(-1)), rtol=1e-6)
    np.testing.assert_array_equal(found["target"][:, 0], -1e4 - 30.0 * np.arange(16))
    np.testing.assert_array_equal(found["top"], -1e4)


class Device:
    """A device of which only the kind is looked at."""

    platform = "tpu"

    def __init__(self, kind):
        self.device_kind = kind


def choice(name="auto", kind="TPU v5 lite", *, width=1024, vocab=32_768, **changes):
    chunks = TokenChunks(partitioned(), changes.pop("chunk_tokens", 2048))
    mesh = type(
        "",
        (),
        dict(devices=np.array([Device(kind)]), shape=chunks.partitioning.mesh.shape),
    )
    object.__setattr__(chunks.partitioning, "mesh", mesh)
    dtype = changes.pop("dtype", jnp.bfloat16)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, dtype)
    rows = changes.pop("rows", 16)
    model = Unembedding(shape(rows, 1280, width), shape(vocab, width))
    return LossKernel.of(name, chunks, model, model)


def test_the_paper_scale_loss_takes_kernels_where_a_core_has_the_memory():
    for kind in ("TPU v5 lite", "TPU v5", "TPU v6 lite"):
        assert choice(kind=kind).name == "pallas"
    assert "MiB" in choice(kind="TPU v4").obstacle
    assert "8192" in choice(kind="TPU v5", width=8192).obstacle


@pytest.mark.parametrize(
    "changes, found",
    [
        (dict(kind="TPU v9"), "TPU v9"),
        (dict(chunk_tokens=1000), "976"),
        (dict(vocab=32_768 + 64), "32832"),
        (dict(width=1000), "1000"),
        (dict(dtype=jnp.float32), "float32"),
        (dict(chunk_tokens=128, vocab=32_768), "32 MiB"),
    ],
)
def test_what_keeps_kernels_from_a_loss_is_named_and_refused_if_they_are_asked_for(
    changes, found
):
    chosen = choice(**changes)
    assert chosen.name == "xla" and found in chosen.obstacle
    if "MiB" not in found:
        with pytest.raises(ValueError, match=found):
            choice("pallas", **changes)


def test_kernels_are_for_tpus_alone_and_no_other_name_is_known():
    chunks = TokenChunks(partitioned(), 32)
    student = unembedding(0, D)
    assert LossKernel.of("auto", chunks, student) == LossKernel("xla")
    with pytest.raises(ValueError, match="cpu"):
        LossKernel.of("pallas", chunks, student)
    with pytest.raises(ValueError, match="'fastest'"):
        LossKernel.of("fastest", chunks, student)
