"""Facts about the blend, on whole logits and in chunks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.loss.losses import chunked_salt_loss, salt_loss
from salt_jax.loss.token_statistics import chunked_token_statistics
from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.model.unembedding import Unembedding

B, L, D, TEACHER_D, V = 8, 6, 16, 24, 32
MESHES = {
    "one": MeshShape(data=1),
    "data8": MeshShape(data=8),
    "data2_model4": MeshShape(data=2, model=4),
    "replica2_data2_model2": MeshShape(replica=2, data=2, model=2),
}
TERMS = (0.0, 0.5, 1.0)  # Hard alone, both, soft alone.
BY_ALL = ("replica", "data", "model")
# On replica2_data2_model2, with as many parts of the vocabulary as tell of an order.
RULES = {
    "shared": dict(batch=BY_ALL),
    "length_split": dict(length="model"),
    "only_stored_split": dict(
        batch=BY_ALL, vocab=("data", "model"), vocab_embed="replica", act_vocab=None
    ),
}
OTHER_RULES = {
    "whole": dict(vocab=None, act_vocab=None),
    "stored_over_data": dict(vocab="data", act_vocab=None),
    "shared_by_all": dict(batch=BY_ALL, vocab=BY_ALL, act_vocab=BY_ALL),
    "shared_by_two_of_them": dict(
        batch=BY_ALL, vocab=("model", "data", "replica"), act_vocab=("model", "data")
    ),
    "shared_over_one_of_two": dict(
        batch=("model", "replica"), vocab=("data", "model"), act_vocab=("data", "model")
    ),
    "width_stored_over_two": dict(vocab="model", vocab_embed=("replica", "data")),
    "only_width_split": dict(vocab=None, vocab_embed="model", act_vocab=None),
    "length_shared": dict(
        batch="data", length=("replica", "model"), vocab=("model", "data")
    ),
    "vocab_over_replica": dict(
        batch="data",
        length="model",
        vocab="replica",
        act_vocab="replica",
        vocab_embed="model",
    ),
}


def mesh_of(shape):
    count = shape.replica * shape.data * shape.model
    return shape.build(jax.devices()[:count])


def partitioned(name, **rules):
    return Partitioning(mesh=mesh_of(MESHES[name]), rules=AxisRules(**rules))


def unembedding(seed, *, width=D, scale=1.0, softcap=None, rounded=False):
    """Hidden states and an embedding; logits spread by about sqrt(width) * scale."""
    keys = jax.random.split(jax.random.key(seed), 2)
    hidden_BLD = jax.random.normal(keys[0], (B, L, width))
    embedding_VD = scale * jax.random.normal(keys[1], (V, width))
    if rounded:
        hidden_BLD, embedding_VD = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
            (hidden_BLD, embedding_VD),
        )
    return Unembedding(hidden_BLD, embedding_VD, softcap)


@pytest.fixture
def tokens():
    """Targets, and weights of which some are zero and some not whole."""
    keys = jax.random.split(jax.random.key(7), 2)
    targets_BL = jax.random.randint(keys[0], (B, L), 0, V)
    weights_BL = jax.random.uniform(keys[1], (B, L))
    return targets_BL, weights_BL.at[0, 1:].set(0.0).at[-1, -1].set(0.0)


def dense(student, teacher, tokens, **blend):
    teacher_BLV = None if teacher is None else teacher.logits()
    return salt_loss(student.logits(), teacher_BLV, *tokens, **blend)


@functools.cache
def differentiated(loss, **static):
    """Returns `loss` compiled: (metrics, gradient by the student) of its arguments."""

    def total(student, teacher, tokens, kd_weight):
        metrics = loss(student, teacher, tokens, kd_weight=kd_weight, **static)
        return metrics["loss"].total, metrics

    def run(*args):
        (_, metrics), gradient = jax.value_and_grad(total, has_aux=True)(*args)
        return metrics, gradient

    return jax.jit(run)


def chunked(student, teacher, tokens, **options):
    return chunked_salt_loss(student, teacher, *tokens, **options)


def assert_close(found, expected, tolerance):
    """Compares largest and root-mean-square difference with those of `expected`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    apart = found - expected
    assert np.abs(apart).max() <= tolerance * np.abs(expected).max()
    assert np.linalg.norm(apart) <= tolerance * np.linalg.norm(expected)


def assert_equal_metrics(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, mean in expected.items():
        np.testing.assert_allclose(
            (found[name].total, found[name].weight),
            (mean.total, mean.weight),
            rtol=tolerance,
            atol=1e-5,
            err_msg=name,
        )


def test_without_weight_on_the_teacher_the_blend_is_cross_entropy(tokens):
    student, teacher = unembedding(0), unembedding(1)
    log_p_BLV = jax.nn.log_softmax(student.logits())
    ce_BL = -np.take_along_axis(
        np.asarray(log_p_BLV), np.asarray(tokens[0])[..., None], -1
    )
    weights_BL = np.asarray(tokens[1])
    expected = np.sum(ce_BL[..., 0] * weights_BL) / np.sum(weights_BL)
    for model in (teacher, None):
        loss = dense(student, model, tokens, kd_weight=0.0)["loss"]
        assert float(loss.mean()) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_certain_of_the_targets_teaches_cross_entropy(tokens):
    student = unembedding(0)
    certain_BLV = 1e4 * jax.nn.one_hot(tokens[0], V)
    metrics = salt_loss(student.logits(), certain_BLV, *tokens, kd_weight=1.0)
    assert float(metrics["loss"].total) == pytest.approx(float(metrics["ce"].total))
    assert float(metrics["teacher_wrong"].total) == 0.0
    assert float(metrics["teacher_ce"].total) == 0.0


@pytest.mark.parametrize("mesh", MESHES)
def test_a_student_that_matches_its_teacher_has_nothing_to_learn(tokens, mesh):
    student = unembedding(0)
    run = differentiated(chunked, partitioning=partitioned(mesh), chunk_tokens=5)
    metrics, gradient = run(student, student, tokens, 1.0)
    for x in jax.tree.leaves(gradient):
        np.testing.assert_allclose(x, np.zeros_like(x), atol=2e-6)
    assert float(metrics["kl"].total) == pytest.approx(0.0, abs=1e-5)
    assert float(metrics["agreement"].mean()) == 1.0


def test_the_temperature_divides_the_logits_of_the_teacher_alone(tokens):
    student_BLV, teacher_BLV = unembedding(0).logits(), unembedding(1).logits()
    warm = salt_loss(student_BLV, teacher_BLV, *tokens, kd_weight=0.5, temperature=0.25)
    cold = salt_loss(student_BLV, teacher_BLV * 4.0, *tokens, kd_weight=0.5)
    assert_equal_metrics(
        {name: warm[name] for name in ("loss", "ce", "kd", "agreement")},
        {name: cold[name] for name in ("loss", "ce", "kd", "agreement")},
    )
    plain = salt_loss(student_BLV, teacher_BLV, *tokens, kd_weight=0.5)
    for name in ("kl", "teacher_ce", "teacher_wrong"):  # At temperature 1.
        np.testing.assert_array_equal(warm[name].total, plain[name].total)
    assert float(warm["kd"].total) != pytest.approx(float(plain["kd"].total), rel=1e-5)


def test_metrics_are_those_of_distributions_written_out():
    student_BLV = jnp.log(jnp.asarray([[[0.5, 0.3, 0.2]], [[0.1, 0.1, 0.8]]]))
    teacher_BLV = jnp.log(jnp.asarray([[[0.6, 0.2, 0.2]], [[0.7, 0.1, 0.2]]])) + 3.0
    targets_BL, weights_BL = jnp.asarray([[0], [2]]), jnp.asarray([[2.0], [1.0]])
    metrics = salt_loss(student_BLV, teacher_BLV, targets_BL, weights_BL, kd_weight=0.5)
    log = np.log
    ce = np.array([-log(0.5), -log(0.8)])
    kd = -np.array(
        [
            0.6 * log(0.5) + 0.2 * log(0.3) + 0.2 * log(0.2),
            0.7 * log(0.1) + 0.1 * log(0.1) + 0.2 * log(0.8),
        ]
    )
    entropy = -np.array(
        [
            0.6 * log(0.6) + 0.4 * log(0.2),
            0.7 * log(0.7) + 0.3 * log(0.2) - 0.1 * log(2),
        ]
    )
    expected = {
        "loss": (ce + kd) / 2,
        "ce": ce,
        "kd": kd,
        "kl": kd - entropy,
        "teacher_ce": np.array([-log(0.6), -log(0.2)]),
        "agreement": np.array([1.0, 0.0]),
        "teacher_wrong": np.array([0.0, 1.0]),
    }
    assert metrics.keys() == expected.keys()
    for name, values in expected.items():
        total = 2 * values[0] + values[1]
        assert float(metrics[name].total) == pytest.approx(total, rel=1e-5), name
        assert float(metrics[name].weight) == 3.0


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("mesh", MESHES)
def test_chunks_give_every_metric_and_gradient_of_the_dense_loss(
    tokens, mesh, temperature, softcap
):
    student = unembedding(0, softcap=softcap, scale=0.5)
    teacher = unembedding(1, width=TEACHER_D, softcap=softcap, scale=0.5)
    oracle = differentiated(dense, temperature=temperature)
    run = differentiated(
        chunked,
        partitioning=partitioned(mesh),
        chunk_tokens=5,
        temperature=temperature,
    )
    for kd_weight in TERMS:
        metrics, gradient = run(student, teacher, tokens, kd_weight)
        expected_metrics, expected = oracle(student, teacher, tokens, kd_weight)
        assert_equal_metrics(metrics, expected_metrics)
        assert_close(gradient.hidden_BLD, expected.hidden_BLD, 1e-5)
        assert_close(gradient.embedding_VD, expected.embedding_VD, 1e-5)


@pytest.mark.parametrize("mesh", MESHES)
def test_stage_two_in_chunks_is_the_dense_cross_entropy(tokens, mesh):
    student = unembedding(0)
    run = differentiated(chunked, partitioning=partitioned(mesh), chunk_tokens=5)
    metrics, gradient = run(student, None, tokens, 0.0)
    expected_metrics, expected = differentiated(dense)(student, None, tokens, 0.0)
    assert metrics.keys() == {"loss", "ce"}
    assert_equal_metrics(metrics, expected_metrics)
    jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
@pytest.mark.parametrize("real_vocab_size", [None, V - 3])
def test_the_z_loss_in_chunks_is_that_of_whole_logits(tokens, mesh, real_vocab_size):
    targets_BL, weights_BL = tokens
    tokens = (jnp.minimum(targets_BL, V - 4), weights_BL)
    student = unembedding(0, softcap=4.0, scale=0.5)
    teacher = unembedding(1, width=TEACHER_D, scale=0.5)
    static = {"z_loss": 0.3, "real_vocab_size": real_vocab_size}
    oracle = differentiated(dense, **static)
    run = differentiated(
        chunked, partitioning=partitioned(mesh), chunk_tokens=5, **static
    )
    cases = [(teacher, 0.5), (teacher, 1.0)]
    if real_vocab_size is None:
        cases.append((None, 0.0))
    for teacher, kd_weight in cases:
        metrics, gradient = run(student, teacher, tokens, kd_weight)
        expected_metrics, expected = oracle(student, teacher, tokens, kd_weight)
        assert "z_loss" in metrics
        assert_equal_metrics(metrics, expected_metrics)
        jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)


def test_the_z_loss_is_the_square_of_log_z_and_is_added_to_the_blend(tokens):
    student, teacher = unembedding(0, scale=0.5), unembedding(1, scale=0.5)
    found = dense(student, teacher, tokens, kd_weight=0.25, z_loss=0.3)
    without = dense(student, teacher, tokens, kd_weight=0.25)
    log_z_BL = np.log(np.sum(np.exp(np.float64(student.logits())), axis=-1))
    z_loss = np.sum(0.3 * log_z_BL**2 * np.asarray(tokens[1]))
    assert float(found["z_loss"].total) == pytest.approx(z_loss, rel=1e-5)
    total = float(without["loss"].total) + z_loss
    assert float(found["loss"].total) == pytest.approx(total, rel=1e-5)
    assert found["ce"].total == without["ce"].total
    assert "z_loss" not in without


@pytest.mark.parametrize("z_loss", [-1e-4, float("nan"), float("inf")])
def test_a_z_loss_that_makes_no_sense_is_refused(tokens, z_loss):
    options = {"partitioning": partitioned("one"), "chunk_tokens": 5}
    for loss in (dense, functools.partial(chunked, **options)):
        with pytest.raises(ValueError, match=f"z_loss .* {z_loss}"):
            loss(unembedding(0), None, tokens, z_loss=z_loss)


@pytest.mark.parametrize("kd_weight", TERMS)
@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_bfloat16_inputs_with_peaked_logits_lose_nothing_but_the_last_rounding(
    tokens, mesh, kd_weight
):
    # The oracle is given the same values in float32, so it rounds no logits.
    student = unembedding(0, scale=4.0, rounded=True)
    teacher = unembedding(1, width=TEACHER_D, scale=4.0, rounded=True)
    _, expected = differentiated(dense)(student, teacher, tokens, kd_weight)
    run = differentiated(chunked, partitioning=partitioned(mesh), chunk_tokens=5)

    _, gradient = run(student, teacher, tokens, kd_weight)
    assert_close(gradient.hidden_BLD, expected.hidden_BLD, 1e-5)
    assert_close(gradient.embedding_VD, expected.embedding_VD, 1e-5)

    half = lambda model: model.replace(hidden_BLD=model.hidden_BLD.astype(jnp.bfloat16))
    _, gradient = run(half(student), half(teacher), tokens, kd_weight)
    assert gradient.embedding_VD.dtype == jnp.float32
    assert_close(gradient.embedding_VD, expected.embedding_VD, 1e-5)
    assert gradient.hidden_BLD.dtype == jnp.bfloat16
    np.testing.assert_allclose(  # Half a unit in the last of bfloat16's 8 bits, at 1.
        gradient.hidden_BLD.astype(jnp.float32),
        expected.hidden_BLD,
        rtol=2.0**-8,
        atol=1e-5 * np.abs(expected.hidden_BLD).max(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 48, 1000])
def test_the_size_of_a_chunk_changes_nothing(tokens, chunk_tokens):
    student, teacher = unembedding(0), unembedding(1, width=TEACHER_D)
    run = differentiated(
        chunked, partitioning=partitioned("one"), chunk_tokens=chunk_tokens
    )
    metrics, gradient = run(student, teacher, tokens, 0.5)
    expected_metrics, expected = differentiated(dense)(student, teacher, tokens, 0.5)
    assert_equal_metrics(metrics, expected_metrics)
    jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)


def test_halves_of_a_batch_add_up_to_the_batch(tokens):
    # The halves have unequal weights, which tells a sum from a mean of means.
    models = unembedding(0), unembedding(1)
    run = differentiated(chunked, partitioning=partitioned("one"), chunk_tokens=5)
    whole, whole_gradient = run(*models, tokens, 0.5)

    def half(rows):
        cut = lambda model: model.replace(hidden_BLD=model.hidden_BLD[rows])
        return run(*map(cut, models), jax.tree.map(lambda x: x[rows], tokens), 0.5)

    (first, gradient_1), (second, gradient_2) = half(slice(0, 4)), half(slice(4, 8))
    assert float(first["loss"].weight) != float(second["loss"].weight)
    assert_equal_metrics({name: first[name] + second[name] for name in whole}, whole)
    summed = gradient_1.embedding_VD + gradient_2.embedding_VD
    assert_close(summed, whole_gradient.embedding_VD, 1e-5)


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_what_padding_holds_changes_nothing(tokens, mesh):
    student, teacher = unembedding(0), unembedding(1)
    run = differentiated(chunked, partitioning=partitioned(mesh), chunk_tokens=5)
    targets_BL, weights_BL = tokens
    other = student.replace(hidden_BLD=student.hidden_BLD.at[0, 1:].set(9.0))
    others = (targets_BL.at[0, 1:].set(V - 1), weights_BL)
    expected_metrics, expected = run(student, teacher, tokens, 0.5)
    metrics, gradient = run(other, teacher, others, 0.5)
    jax.tree.map(np.testing.assert_array_equal, metrics, expected_metrics)
    jax.tree.map(np.testing.assert_array_equal, gradient, expected)
    assert not np.any(gradient.hidden_BLD[0, 1:])


@pytest.mark.parametrize("loss", [dense, chunked])
def test_only_the_loss_has_a_gradient_and_only_for_the_student(tokens, loss):
    options = {} if loss is dense else dict(chunk_tokens=5)
    if loss is chunked:
        options["partitioning"] = partitioned("one")

    def others(student, teacher, weights_BL, kd_weight):
        arguments = (student, teacher, (tokens[0], weights_BL))
        metrics = loss(*arguments, kd_weight=kd_weight, **options)
        parts = sum(m.total for name, m in metrics.items() if name != "loss")
        return parts, metrics["loss"].total

    arguments = (unembedding(0), unembedding(1), tokens[1], 0.5)
    by_all = (0, 1, 2, 3)
    slopes = jax.jit(jax.jacrev(others, by_all))
    parts, (student, *rest) = slopes(*arguments)
    assert not any(np.any(x) for x in jax.tree.leaves((parts, rest)))
    assert np.any(student.hidden_BLD) and np.any(student.embedding_VD)


def test_the_gradient_is_scaled_by_what_comes_after_the_loss(tokens):
    student, teacher = unembedding(0), unembedding(1)
    options = dict(partitioning=partitioned("one"), chunk_tokens=5, kd_weight=0.5)

    def mean(student):
        return chunked(student, teacher, tokens, **options)["loss"].mean()

    gradient = jax.grad(mean)(student)
    expected = jax.grad(
        lambda s: dense(s, teacher, tokens, kd_weight=0.5)["loss"].mean()
    )(student)
    jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)


def under_rules(rules):
    """A mesh with `rules`, and two models and tokens that divide over it."""
    columns = lambda x: jnp.concatenate([x, x[:, :2]], axis=1)
    keys = jax.random.split(jax.random.key(7), 2)
    targets_BL = jax.random.randint(keys[0], (B, L + 2), 0, V)
    weights_BL = jax.random.uniform(keys[1], (B, L + 2)).at[0, 1:].set(0.0)
    student, teacher = unembedding(0, scale=0.5), unembedding(1, width=TEACHER_D)
    student, teacher = (
        model.replace(hidden_BLD=columns(model.hidden_BLD))
        for model in (student, teacher)
    )
    partitioning = partitioned("replica2_data2_model2", **rules)
    return partitioning, student, teacher, (targets_BL, weights_BL)


def check_rules(rules):
    """Compares the loss, its gradient and the statistics with those of one device."""
    partitioning, student, teacher, tokens = under_rules(rules)
    run = differentiated(chunked, partitioning=partitioning, chunk_tokens=5)
    for kd_weight in TERMS:
        metrics, gradient = run(student, teacher, tokens, kd_weight)
        arguments = (student, teacher, tokens, kd_weight)
        expected_metrics, expected = differentiated(dense)(*arguments)
        assert_equal_metrics(metrics, expected_metrics)
        jax.tree.map(lambda x, y: assert_close(x, y, 1e-5), gradient, expected)
    check_statistics(student, tokens[0], partitioning)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_where_tokens_and_the_vocabulary_are_changes_nothing(rules):
    check_rules(rules)


@pytest.mark.slow
@pytest.mark.parametrize("rules", OTHER_RULES.values(), ids=OTHER_RULES)
def test_the_rules_of_the_axes_change_nothing(rules):
    check_rules(rules)


@pytest.mark.parametrize("chunk_tokens", [5, 12])
@pytest.mark.parametrize(
    ("rules", "parts"),
    [({}, 2), (RULES["shared"], 2), (OTHER_RULES["shared_by_all"], 8)],
    ids=["split", "shared", "shared_by_all"],
)
def test_a_device_never_has_logits_of_more_tokens_than_a_chunk(
    rules, parts, chunk_tokens
):
    partitioning, student, teacher, tokens = under_rules(rules)
    # Of a width that no part of the vocabulary has.
    student = jax.tree.map(lambda x: x[..., :12], student)
    run = differentiated(chunked, partitioning=partitioning, chunk_tokens=chunk_tokens)
    jaxpr = str(jax.make_jaxpr(run)(student, teacher, tokens, 0.5))
    rows = re.findall(rf"f32\[(\d+),{V // parts}\]", jaxpr)
    # Eight devices of one token each share no fewer than eight.
    most = max(chunk_tokens, 8 if parts == 8 else 0)
    assert chunk_tokens // 2 < max(map(int, rows)) <= most
    assert not re.search(rf"\[\d+(,\d+)?,{V}\]", jaxpr)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("mesh", MESHES)
def test_statistics_of_tokens_are_those_of_whole_logits(tokens, mesh, softcap):
    check_statistics(unembedding(0, softcap=softcap), tokens[0], partitioned(mesh))


def check_statistics(model, targets_BL, partitioning):
    """Compares the chunked pass with all logits, in float64 where that matters."""
    options = dict(partitioning=partitioning, chunk_tokens=5)
    found = jax.jit(functools.partial(chunked_token_statistics, **options))(
        model, targets_BL
    )
    logits_BLV = np.asarray(model.logits())
    target_BL1 = np.take_along_axis(logits_BLV, np.asarray(targets_BL)[..., None], -1)
    log_sum_BL = np.log(np.sum(np.exp(logits_BLV.astype(np.float64)), -1))
    np.testing.assert_allclose(
        found.ce_BL, log_sum_BL - target_BL1[..., 0], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(found.rank_BL, np.sum(logits_BLV > target_BL1, -1))
    assert found.rank_BL.dtype == jnp.int32
    log_p_BLV = logits_BLV - log_sum_BL[..., None]
    np.testing.assert_allclose(
        found.entropy_BL,
        -np.sum(np.exp(log_p_BLV) * log_p_BLV, axis=-1),
        rtol=1e-4,
        atol=1e-5,
    )


def entropies(model, mesh):
    """What the chunked pass, and the definition in float64, say of each position."""
    options = dict(partitioning=partitioned(mesh), chunk_tokens=5)
    found = jax.jit(functools.partial(chunked_token_statistics, **options))(
        model, jnp.zeros((B, L), jnp.int32)
    ).entropy_BL
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), model)
    logits_BLV = np.asarray(whole.logits(), np.float64)
    log_sum_BL1 = np.logaddexp.reduce(logits_BLV, axis=-1, keepdims=True)
    log_p_BLV = logits_BLV - log_sum_BL1
    return found, -np.sum(np.exp(log_p_BLV) * log_p_BLV, axis=-1)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("mesh", MESHES)
def test_entropy_is_that_of_the_models_own_distribution(mesh, softcap):
    found, expected = entropies(unembedding(0, scale=0.3, softcap=softcap), mesh)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == jnp.float32
    assert expected.min() > 0.2 and expected.max() < np.log(V)


@pytest.mark.parametrize("scale", [0.3, 4.0, 40.0])
@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_entropy_of_bfloat16_inputs_is_that_of_their_values_however_peaked(mesh, scale):
    model = unembedding(0, scale=scale, rounded=True)
    model = model.replace(hidden_BLD=model.hidden_BLD.astype(jnp.bfloat16))
    found, expected = entropies(model, mesh)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (scale < 40.0) or np.median(expected) < 1e-3


@pytest.mark.parametrize("mesh", ["one", "data2_model4"])
def test_entropy_of_equal_logits_is_the_logarithm_of_the_vocabulary(mesh):
    model = unembedding(0)
    flat = model.replace(embedding_VD=jnp.zeros_like(model.embedding_VD))
    np.testing.assert_allclose(entropies(flat, mesh)[0], np.log(V), rtol=1e-6)


def test_the_rank_of_the_largest_logit_is_zero_and_of_the_smallest_the_last():
    model = unembedding(0)
    logits_BLV = model.logits()
    options = dict(partitioning=partitioned("data2_model4"), chunk_tokens=5)
    for targets_BL, rank in (
        (jnp.argmax(logits_BLV, -1), 0),
        (jnp.argmin(logits_BLV, -1), V - 1),
    ):
        found = chunked_token_statistics(model, targets_BL, **options)
        np.testing.assert_array_equal(found.rank_BL, np.full((B, L), rank))


@pytest.mark.parametrize("target", [-1, V, V + 7])
def test_a_target_outside_the_vocabulary_is_not_a_number(tokens, target):
    tokens = (tokens[0].at[3, 3].set(target), tokens[1])
    model = unembedding(0)
    options = dict(partitioning=partitioned("data2_model4"), chunk_tokens=5)
    assert np.isnan(dense(model, None, tokens)["loss"].total)
    assert np.isnan(chunked(model, None, tokens, **options)["loss"].total)
    ce_BL = chunked_token_statistics(model, tokens[0], **options).ce_BL
    assert np.sum(np.isnan(ce_BL)) == 1 and np.isnan(ce_BL[3, 3])


def lowered(teacher, tokens, *, with_gradient, mesh="one"):
    student = unembedding(0)
    options = dict(partitioning=partitioned(mesh), chunk_tokens=4)

    def total(student, teacher, tokens, kd_weight):
        metrics = chunked(student, teacher, tokens, kd_weight=kd_weight, **options)
        return metrics["loss"].total, metrics

    run = jax.value_and_grad(total, has_aux=True) if with_gradient else total
    return jax.jit(run).lower(student, teacher, tokens, 0.5)


@pytest.mark.parametrize(
    ("has_teacher", "with_gradient", "products"),
    [(True, True, 4), (False, True, 3), (True, False, 2), (False, False, 1)],
)
def test_no_logits_are_made_twice_and_no_gradient_where_none_is_asked(
    tokens, has_teacher, with_gradient, products
):
    teacher = unembedding(1, width=TEACHER_D) if has_teacher else None
    program = lowered(teacher, tokens, with_gradient=with_gradient)
    # As written, and as compiled: a compiler may drop products, and repeat them.
    assert len(re.findall(r"stablehlo\.dot_general", program.as_text())) == products
    assert len(re.findall(r" dot\(", program.compile().as_text())) == products


def test_no_array_is_as_large_as_the_logits_of_the_batch(tokens):
    teacher = unembedding(1, width=TEACHER_D)
    text = lowered(teacher, tokens, with_gradient=True).compile().as_text()
    shapes = set(re.findall(r"\w+\[([\d,]+)\]", text))
    sizes = {np.prod([int(n) for n in shape.split(",")]) for shape in shapes}
    assert max(sizes) < B * L * V
    assert 4 * V in sizes  # The logits of a chunk are found by this search.


@pytest.mark.parametrize(
    ("rules", "piece"),
    [
        ({}, (V // 8, D)),
        (dict(vocab="model", vocab_embed="data"), (V // 4, D // 2)),
        (dict(batch=BY_ALL), (V // 8, D)),
    ],
    ids=["default", "width_split", "shared"],
)
def test_the_gradient_of_the_embedding_is_summed_once_into_its_own_pieces(
    tokens, rules, piece
):
    student, teacher = unembedding(0), unembedding(1)
    partitioning = partitioned("data2_model4", **rules)
    run = differentiated(chunked, partitioning=partitioning, chunk_tokens=4)
    _, gradient = run(student, teacher, tokens, 0.5)
    assert gradient.embedding_VD.sharding.shard_shape((V, D)) == piece
    text = run.lower(student, teacher, tokens, 0.5).compile().as_text()
    whole = rf"f32\[{V // 4},{D}\]\S* (all-reduce|all-gather)"
    pieces = rf"f32\[{piece[0]},{piece[1]}\]\S* reduce-scatter\("
    assert len(re.findall(pieces, text)) == 1
    assert len(re.findall(whole, text)) <= 1  # Gathered once, to be read.


@pytest.mark.parametrize("chunk_tokens", [0, -4])
def test_a_chunk_of_no_tokens_is_refused(tokens, chunk_tokens):
    options = dict(partitioning=partitioned("one"), chunk_tokens=chunk_tokens)
    message = f"chunk_tokens .*1, got {chunk_tokens}"
    with pytest.raises(ValueError, match=message):
        chunked(unembedding(0), None, tokens, **options)
    with pytest.raises(ValueError, match=message):
        chunked_token_statistics(unembedding(0), tokens[0], **options)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("loss", [dense, chunked])
def test_a_temperature_that_is_not_positive_is_refused(tokens, loss, temperature):
    options = {} if loss is dense else dict(chunk_tokens=5)
    if loss is chunked:
        options["partitioning"] = partitioned("one")
    with pytest.raises(ValueError, match=f"temperature .*{temperature}"):
        loss(unembedding(0), unembedding(1), tokens, temperature=temperature, **options)


def test_a_teacher_of_another_vocabulary_is_refused(tokens):
    teacher = unembedding(1)
    teacher = teacher.replace(embedding_VD=teacher.embedding_VD[: V - 8])
    options = dict(partitioning=partitioned("one"), chunk_tokens=5)
    with pytest.raises(ValueError, match="teacher .*24 .*student .*32"):
        chunked(unembedding(0), teacher, tokens, **options)


def test_a_teacher_of_another_batch_is_refused(tokens):
    teacher = unembedding(1)
    teacher = teacher.replace(hidden_BLD=teacher.hidden_BLD[:4])
    options = dict(partitioning=partitioned("one"), chunk_tokens=5)
    with pytest.raises(ValueError, match=r"teacher .*\(4, 6\) .*student .*\(8, 6\)"):
        chunked(unembedding(0), teacher, tokens, **options)


@pytest.mark.parametrize(
    ("mesh", "rows", "vocab", "width", "message"),
    [
        ("data2_model4", 8, 30, 16, r"'vocab' of size 30 .* {'model': 4, 'data': 2}"),
        ("data8", 6, 32, 16, r"'batch' of size 6 .* {'replica': 1, 'data': 8}"),
        ("data8", 8, 12, 16, r"'vocab' of size 12 .* {'model': 1, 'data': 8}"),
    ],
)
def test_a_size_that_the_mesh_does_not_divide_is_refused_by_name(
    mesh, rows, vocab, width, message
):
    model = Unembedding(jnp.zeros((rows, L, width)), jnp.zeros((vocab, width)))
    tokens = jnp.zeros((rows, L), jnp.int32), jnp.ones((rows, L))
    options = dict(partitioning=partitioned(mesh), chunk_tokens=5)
    with pytest.raises(ValueError, match=message):
        chunked(model, None, tokens, **options)


def test_hidden_states_of_other_tokens_than_the_targets_are_refused(tokens):
    options = dict(partitioning=partitioned("one"), chunk_tokens=5)
    with pytest.raises(ValueError, match=r"\(8, 6\) .*targets \(8, 3\)"):
        chunked_token_statistics(unembedding(0), tokens[0][:, :3], **options)
