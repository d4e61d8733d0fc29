"""Facts about gates, and about a vocabulary that the models pad."""

import dataclasses
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.loss import gates
from salt_jax.loss.gates import EveryToken, WhereTeacherLeads, WhereTeacherRanks
from salt_jax.model.unembedding import Unembedding
from tests.loss.losses_test import (
    MESHES,
    TEACHER_D,
    TERMS,
    B,
    D,
    L,
    V,
    assert_close,
    assert_equal_metrics,
    chunked,
    dense,
    differentiated,
    partitioned,
    unembedding,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Smooth:
    """Some strength between 0 and 1 for each target, from everything there is."""

    needs_rank: typing.ClassVar[bool] = True

    def __call__(self, values):
        mean = values.kd - values.ce + 0.3 * values.kl - 0.2 * values.teacher_ce
        steps = (
            values.agreement + 2.0 * values.teacher_wrong - 0.1 * values.teacher_rank
        )
        return jax.nn.sigmoid(mean + steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Always:
    """One strength, whatever the values; of another shape if asked."""

    strength: float
    shape: tuple[int, ...] | None = None
    needs_rank: typing.ClassVar[bool] = False

    def __call__(self, values):
        return jnp.full(self.shape or values.ce.shape, self.strength)


TOP = 12
GATES = {
    "ranks": WhereTeacherRanks(k=TOP),
    "leads": WhereTeacherLeads(margin=0.5),
    "smooth": Smooth(),
}
REAL = (
    27  # Of the 32 rows; the mesh with four shards splits row 24 to 32 from the rest.
)


@pytest.fixture
def tokens():
    """Targets that are no padding, and weights of which some are zero."""
    keys = jax.random.split(jax.random.key(7), 2)
    targets_BL = jax.random.randint(keys[0], (B, L), 0, REAL)
    weights_BL = jax.random.uniform(keys[1], (B, L))
    return targets_BL, weights_BL.at[0, 1:].set(0.0).at[-1, -1].set(0.0)


def in_chunks(mesh, **options):
    return differentiated(
        chunked, partitioning=partitioned(mesh), chunk_tokens=5, **options
    )


def check_against_oracle(student, teacher, tokens, *, mesh, **options):
    """Compares metrics and gradients of both losses, for each of their terms."""
    run, oracle = in_chunks(mesh, **options), differentiated(dense, **options)
    for kd_weight in TERMS:
        metrics, gradient = run(student, teacher, tokens, kd_weight)
        expected_metrics, expected = oracle(student, teacher, tokens, kd_weight)
        assert_equal_metrics(metrics, expected_metrics)
        jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)
    return metrics


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
@pytest.mark.parametrize(
    ("mesh", "temperature", "softcap"),
    [
        ("one", 1.0, None),
        ("one", 0.5, 4.0),
        ("data2_model4", 0.5, None),
        ("replica2_data2_model2", 1.0, 4.0),
    ],
)
def test_chunks_give_the_metrics_and_gradients_of_the_dense_loss_under_a_gate(
    tokens, gate, mesh, temperature, softcap
):
    student = unembedding(0, softcap=softcap, scale=0.5)
    teacher = unembedding(1, width=TEACHER_D, softcap=softcap, scale=0.5)
    options = dict(mesh=mesh, temperature=temperature, gate=gate)
    metrics = check_against_oracle(student, teacher, tokens, **options)
    assert 0.05 < float(metrics["distilled"].mean()) < 0.95


def test_the_gradient_is_that_of_the_formula_with_strengths_held_fixed(tokens):
    targets_BL, weights_BL = tokens
    student, teacher = unembedding(0), unembedding(1, width=TEACHER_D)
    teacher_BLV = teacher.logits()
    q_BLV = jax.nn.softmax(teacher_BLV)
    one_hot_BLV = jax.nn.one_hot(targets_BL, V)

    def ce_and_kd(student):
        log_p_BLV = jax.nn.log_softmax(student.logits())
        labels = (one_hot_BLV, q_BLV)
        return [-jnp.sum(x * log_p_BLV, axis=-1) for x in labels]

    teacher_ce_BL = -jnp.sum(one_hot_BLV * jnp.log(q_BLV), axis=-1)
    target_BL1 = jnp.sum(one_hot_BLV * teacher_BLV, axis=-1, keepdims=True)
    fixed = {
        "ranks": jnp.sum(teacher_BLV > target_BL1, axis=-1) < TOP,
        "leads": ce_and_kd(student)[0] - teacher_ce_BL > 0.5,
    }
    for name, g_BL in fixed.items():

        def formula(student, w_BL=0.7 * g_BL):
            ce_BL, kd_BL = ce_and_kd(student)
            return jnp.sum(weights_BL * ((1 - w_BL) * ce_BL + w_BL * kd_BL))

        for loss in (differentiated(dense, gate=GATES[name]),
                     in_chunks("one", gate=GATES[name])):  # fmt: skip
            metrics, gradient = loss(student, teacher, tokens, 0.7)
            total, expected = jax.value_and_grad(formula)(student)
            assert float(metrics["loss"].total) == pytest.approx(float(total), rel=1e-5)
            jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)
            share = np.average(np.asarray(g_BL, np.float64), weights=weights_BL)
            assert float(metrics["distilled"].mean()) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("kd_weight", TERMS)
@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_a_gate_of_bfloat16_inputs_with_peaked_logits_is_as_exact(
    tokens, mesh, kd_weight
):
    student = unembedding(0, scale=4.0, rounded=True)
    teacher = unembedding(1, width=TEACHER_D, scale=4.0, rounded=True)
    oracle = differentiated(dense, gate=Smooth())
    expected_metrics, expected = oracle(student, teacher, tokens, kd_weight)
    half = lambda model: model.replace(hidden_BLD=model.hidden_BLD.astype(jnp.bfloat16))
    run = in_chunks(mesh, gate=Smooth())
    metrics, gradient = run(half(student), half(teacher), tokens, kd_weight)
    assert_equal_metrics(metrics, expected_metrics)
    assert_close(gradient.embedding_VD, expected.embedding_VD, 1e-5)
    np.testing.assert_allclose(
        gradient.hidden_BLD.astype(jnp.float32),
        expected.hidden_BLD,
        rtol=2.0**-8,
        atol=1e-5 * np.abs(expected.hidden_BLD).max(),
    )


@pytest.mark.parametrize(
    ("gate", "strength"),
    [
        (WhereTeacherRanks(k=V), 1.0),
        (WhereTeacherLeads(margin=-1e9), 1.0),
        (WhereTeacherLeads(margin=1e9), 0.0),
        (Always(strength=0.25), 0.25),
    ],
)
def test_one_strength_for_all_targets_scales_kd_weight(tokens, gate, strength):
    models = unembedding(0), unembedding(1)
    metrics, gradient = in_chunks("data8", gate=gate)(*models, tokens, 0.8)
    expected = in_chunks("data8")(*models, tokens, 0.8 * strength)
    assert float(metrics.pop("distilled").mean()) == pytest.approx(strength)
    assert_equal_metrics(metrics, expected[0])
    jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected[1])


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_a_gate_makes_no_logits_and_no_exchange_of_its_own(tokens, mesh):
    arguments = (unembedding(0), unembedding(1, width=TEACHER_D), tokens, 0.5)

    def counted(gate):
        text = in_chunks(mesh, gate=gate).lower(*arguments).compile().as_text()
        operations = (r" dot\(", r" while\(", r" all-reduce\(", r" all-gather\(")
        return [len(re.findall(operation, text)) for operation in operations]

    plain = counted(EveryToken())
    assert plain[:2] == [4, 1]
    assert [counted(gate) for gate in GATES.values()] == [plain] * len(GATES)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_a_strength_outside_0_and_1_is_not_a_number(tokens, wrong):
    for loss in (differentiated(dense, gate=Always(strength=wrong)),
                 in_chunks("one", gate=Always(strength=wrong))):  # fmt: skip
        metrics, _ = loss(unembedding(0), unembedding(1), tokens, 0.5)
        assert np.isnan(metrics["loss"].total)
        assert np.isfinite(metrics["ce"].total)


def test_what_a_gate_gives_for_padding_changes_nothing(tokens):
    @dataclasses.dataclass(frozen=True)
    class UndefinedWhereUniform:  # As the tokens are that fill the last chunk.
        needs_rank: typing.ClassVar[bool] = False

        def __call__(self, values):
            return jnp.where(values.kl < 1e-6, jnp.nan, 0.5)

    models = unembedding(0), unembedding(1)
    found = in_chunks("one", gate=UndefinedWhereUniform())(*models, tokens, 0.8)
    expected = in_chunks("one", gate=Always(strength=0.5))(*models, tokens, 0.8)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("loss", ["dense", "chunked"])
def test_a_strength_of_another_shape_is_refused(tokens, loss):
    gate = Always(strength=0.5, shape=(3,))
    run = differentiated(dense, gate=gate)
    if loss == "chunked":
        run = in_chunks("one", gate=gate)
    with pytest.raises(ValueError, match=r"Always .*\(3,\)"):
        run(unembedding(0), unembedding(1), tokens, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WhereTeacherRanks(k=0), "k must be .*1, got 0"),
        (lambda: WhereTeacherLeads(margin=float("nan")), "margin .*nan"),
        (lambda: gates.check(7), "int .*needs_rank"),
        (lambda: gates.check(lambda values: values.ce), "function .*needs_rank"),
        (lambda: gates.check(mutable()), "Mutable .*frozen"),
    ],
)
def test_what_is_no_gate_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def mutable():
    @dataclasses.dataclass
    class Mutable:
        needs_rank: typing.ClassVar[bool] = False

        def __call__(self, values):
            return values.ce

    return Mutable()


def padded(model, rows, *, real=REAL):
    """The model with the rows of padding that a careless training may leave."""
    random = 9.0 * jax.random.normal(jax.random.key(3), (rows - real, D))
    embedding_VD = jnp.concatenate([model.embedding_VD[:real], random])
    return Unembedding(model.hidden_BLD, embedding_VD, model.softcap)


@pytest.mark.parametrize("gate", [EveryToken(), Smooth()], ids=["every", "smooth"])
@pytest.mark.parametrize("rows", [(32, 32), (32, 40), (40, 32)])
@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_padding_of_a_vocabulary_is_masked_as_in_the_dense_loss(
    tokens, mesh, rows, gate
):
    student, teacher = (
        padded(unembedding(seed, softcap=cap, scale=0.5), n)
        for seed, cap, n in zip((0, 1), (6.0, None), rows, strict=True)
    )
    options = dict(gate=gate, real_vocab_size=REAL, temperature=0.7)
    check_against_oracle(student, teacher, tokens, mesh=mesh, **options)


@pytest.mark.parametrize("rows", [(32, 32), (27, 40), (40, 27)])
def test_masked_padding_is_as_if_it_were_not_there(tokens, rows):
    whole = unembedding(0), unembedding(1)
    bare = [m.replace(embedding_VD=m.embedding_VD[:REAL]) for m in whole]
    student, teacher = map(padded, whole, rows)
    run = in_chunks("one", gate=WhereTeacherRanks(k=TOP), real_vocab_size=REAL)
    metrics, _ = run(student, teacher, tokens, 1.0)
    expected = in_chunks("one", gate=WhereTeacherRanks(k=TOP))(*bare, tokens, 1.0)
    alike = ("kd", "kl", "teacher_ce", "agreement", "teacher_wrong", "distilled")
    assert_equal_metrics(
        {name: metrics[name] for name in alike},
        {name: expected[0][name] for name in alike},
    )
    # Soft labels alone say nothing of padding.
    soft = in_chunks("one", real_vocab_size=REAL)(student, teacher, tokens, 1.0)[1]
    assert not np.any(soft.embedding_VD[REAL:])
    hidden = in_chunks("one")(*bare, tokens, 1.0)[1].hidden_BLD
    assert_close(soft.hidden_BLD, hidden, 1e-5)
    # Cross-entropy does, and by default so do the soft labels.
    if rows[0] > REAL:
        assert float(metrics["ce"].total) > 1.5 * float(expected[0]["ce"].total)
        hard = in_chunks("one", real_vocab_size=REAL)(student, teacher, tokens, 0.0)[1]
        assert np.all(np.any(hard.embedding_VD[REAL:], axis=-1))


@pytest.mark.parametrize("loss", [dense, chunked])
@pytest.mark.parametrize("size", [0, V + 1])
def test_a_vocabulary_larger_than_a_model_predicts_is_refused(tokens, loss, size):
    options = {"real_vocab_size": size}
    if loss is chunked:
        options |= {"partitioning": partitioned("one"), "chunk_tokens": 5}
    with pytest.raises(ValueError, match=f"real_vocab_size={size}.* {V} .* {V}"):
        loss(unembedding(0), unembedding(1), tokens, kd_weight=0.5, **options)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_target_that_is_padding_is_not_a_number(tokens, mesh):
    tokens = (tokens[0].at[3, 3].set(REAL), tokens[1])
    models = unembedding(0), unembedding(1)
    for loss in (differentiated(dense, real_vocab_size=REAL),
                 in_chunks(mesh, real_vocab_size=REAL)):  # fmt: skip
        metrics, _ = loss(*models, tokens, 0.5)
        assert np.isnan(metrics["ce"].total) and np.isnan(metrics["teacher_ce"].total)
