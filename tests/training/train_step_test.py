import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.model.transformer import Transformer, init_params, parameter_facts
from salt_jax.optim.guard import UpdateGuard
from salt_jax.optim.moving_average import MovingAverage
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.optim.schedules import Constant, Step
from salt_jax.training.train_step import TrainState, Update
from tests.examples import SMALL, on_mesh, packed_batch, partitioning, small_model

TEACHER = dataclasses.replace(SMALL, num_layers=1, embed_dim=16)
OPTIMIZERS = {
    "adamw": AdamW(learning_rate=Constant(value=0.01), clip_norm=1.0),
    "adafactor": Adafactor(learning_rate=Constant(value=0.01), clip_norm=1.0),
}


def stage(mesh=None, *, optimizer="adamw", with_teacher=True, **changes):
    """An update, its first state and the teacher's parameters."""
    mesh = mesh or partitioning()
    student = Transformer(SMALL, mesh)
    teacher, teacher_params = None, None
    if with_teacher:
        teacher, teacher_params = small_model(mesh, num_layers=1, embed_dim=16)
    optimizer = OPTIMIZERS[optimizer].build(parameter_facts(student))
    update = Update(
        student=student,
        optimizer=optimizer,
        teacher=teacher,
        **{"chunk_tokens": 16, "kd_weight": Constant(value=0.5)} | changes,
    )

    def init(key):
        params = init_params(student, key)
        remembered = None if update.guard is None else update.guard.init()
        averaged = None if update.average is None else update.average.init(params)
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, optimizer.init(params), remembered, averaged)

    state = mesh.materialize(init, jax.random.key(0))
    return update, state, teacher_params


def two_steps(update, state, teacher_params, batch):
    step = jax.jit(update)
    state, first = step(state, teacher_params, batch)
    state, second = step(state, teacher_params, batch)
    return state, first, second


def assert_close(actual, expected, **tolerances):
    tolerances = {"rtol": 1e-4, "atol": 2e-6} | tolerances
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerances), actual, expected
    )


@pytest.fixture(scope="module", params=OPTIMIZERS)
def on_one_device(request):
    return request.param, two_steps(
        *stage(optimizer=request.param), packed_batch(rows=8)
    )


@pytest.mark.slow
def test_a_mesh_of_eight_updates_as_a_mesh_of_one(on_one_device):
    optimizer, expected = on_one_device
    mesh = partitioning(8, model=2, replica=2)
    batch = on_mesh(packed_batch(rows=8), mesh)
    actual = two_steps(*stage(mesh, optimizer=optimizer), batch)
    # Adam divides by the root of a squared gradient, which amplifies rounding where
    # a gradient is nearly zero.
    assert_close(actual, expected, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("num_microbatches", [2, 8])
def test_microbatches_add_up_to_the_batch(num_microbatches):
    # Rows of unequal weight are what tells a mean of means.
    batch = packed_batch(rows=8)
    weights_BL = batch.weights_BL.at[0, 1:].set(0.0).at[5].set(0.0)
    batch = batch.replace(weights_BL=weights_BL)
    whole = two_steps(*stage(), batch)
    split = two_steps(*stage(num_microbatches=num_microbatches), batch)
    assert_close(split, whole, atol=2e-5)


@pytest.mark.slow
def test_microbatches_add_up_on_a_mesh():
    mesh = partitioning(8, model=2)
    batch = on_mesh(packed_batch(rows=8), mesh)
    whole = two_steps(*stage(mesh), batch)
    split = two_steps(*stage(mesh, num_microbatches=2), batch)
    assert_close(split, whole, atol=2e-5)


@pytest.mark.slow
def test_the_schedule_counts_steps_not_microbatches():
    schedule = Step(value=0.5, end_step=1)
    arguments = stage(kd_weight=schedule, num_microbatches=4)
    state, first, second = two_steps(*arguments, packed_batch(rows=8))
    assert int(state.step) == 2
    assert (float(first["kd_weight"]), float(second["kd_weight"])) == (0.5, 0.0)


@pytest.mark.slow
def test_at_weight_zero_a_teacher_changes_nothing():
    batch = packed_batch(rows=8)
    taught = two_steps(*stage(kd_weight=Constant(value=0.0)), batch)[0].params
    alone = two_steps(*stage(with_teacher=False), batch)[0].params
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b), taught, alone)
    # AdamW divides a gradient near zero by its own size, and so scales its rounding up.
    # A teacher that counts moves parameters by 4e-3 on average.
    assert max(float(x.mean()) for x in jax.tree.leaves(difference)) < 1e-5


def test_a_teacher_changes_the_update():
    batch = packed_batch(rows=8)
    taught = two_steps(*stage(), batch)[0].params
    alone = two_steps(*stage(with_teacher=False), batch)[0].params
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), taught, alone)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_the_temperature_reaches_the_soft_labels_and_nothing_else():
    batch = packed_batch(rows=8)
    one, two = (two_steps(*stage(temperature=x), batch)[1] for x in (1.0, 4.0))
    means = [{k: float(x[k].mean()) for k in ("ce", "kl", "kd")} for x in (one, two)]
    assert means[0]["ce"] == pytest.approx(means[1]["ce"], rel=1e-6)
    assert means[0]["kl"] == pytest.approx(means[1]["kl"], rel=1e-6)
    assert abs(means[0]["kd"] - means[1]["kd"]) > 1e-3


def test_the_loss_that_is_minimised_is_the_blend():
    _, first, _ = two_steps(
        *stage(kd_weight=Constant(value=0.25)), packed_batch(rows=8)
    )
    means = {k: float(first[k].mean()) for k in ("loss", "ce", "kd")}
    expected = 0.75 * means["ce"] + 0.25 * means["kd"]
    assert means["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_z_loss_of_microbatches_adds_up_and_is_part_of_the_loss():
    batch = packed_batch(rows=8)
    whole = two_steps(*stage(z_loss=0.1), batch)
    split = two_steps(*stage(z_loss=0.1, num_microbatches=4), batch)
    assert_close(split, whole, atol=2e-5)
    means = {k: float(whole[1][k].mean()) for k in ("loss", "ce", "kd", "z_loss")}
    blend = 0.5 * means["ce"] + 0.5 * means["kd"]
    assert means["loss"] == pytest.approx(blend + means["z_loss"], rel=1e-5)
    assert means["z_loss"] > 0.01


def test_updates_lower_the_loss():
    update, state, teacher_params = stage()
    batch, step = packed_batch(rows=8), jax.jit(update)
    losses = []
    for _ in range(10):
        state, metrics = step(state, teacher_params, batch)
        losses.append(float(metrics["loss"].mean()))
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_the_gradient_norm_is_of_the_mean_loss():
    update, state, teacher_params = stage()
    batch = packed_batch(rows=8)
    doubled = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    once = jax.jit(update)(state, teacher_params, batch)[1]["grad_norm"]
    twice = jax.jit(update)(state, teacher_params, doubled)[1]["grad_norm"]
    assert float(twice) == pytest.approx(float(once), rel=1e-5)


def test_a_batch_without_targets_changes_no_number_to_nan():
    update, state, teacher_params = stage()
    batch = packed_batch(rows=8)
    empty = batch.replace(weights_BL=jnp.zeros_like(batch.weights_BL))
    state, metrics = jax.jit(update)(state, teacher_params, empty)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, metrics)))


def test_stage_two_has_no_teacher_in_its_metrics():
    update, state, _ = stage(with_teacher=False)
    metrics = jax.jit(update)(state, None, packed_batch(rows=8))[1]
    assert set(metrics) == {"loss", "ce", "grad_norm", "update_norm"}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_keeps_its_shardings(optimizer):
    mesh = partitioning(8, model=2)
    update, state, teacher_params = stage(mesh, optimizer=optimizer)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
    after, _ = step(state, teacher_params, on_mesh(packed_batch(rows=8), mesh))
    assert jax.tree.map(lambda x: x.sharding, after) == shardings
    embedding = after.params["params"]["embedding_VD"].sharding
    assert embedding.spec == jax.sharding.PartitionSpec(("model", "data"), None)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_one_bad_row_of_a_microbatch_of_a_replica_drops_the_update(
    num_devices, optimizer
):
    mesh = partitioning(8, model=2, replica=2) if num_devices == 8 else None
    update, state, teacher_params = stage(
        mesh, optimizer=optimizer, num_microbatches=2, guard=UpdateGuard()
    )
    batch = packed_batch(rows=8)
    bad = batch.replace(weights_BL=batch.weights_BL.at[3].set(jnp.inf))
    good, bad = (on_mesh(x, update.student.partitioning) for x in (batch, bad))
    step = jax.jit(update)
    first, found = step(state, teacher_params, bad)
    assert int(found["skipped_updates"]) == int(found["skipped_in_a_row"]) == 1
    assert float(found["update_norm"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, first, leave_out_by_hand(state, first))
    _, found = step(first, teacher_params, good)
    assert (int(found["skipped_updates"]), int(found["skipped_in_a_row"])) == (1, 0)
    assert float(found["update_norm"]) > 0.0


def leave_out_by_hand(state, after):
    """The state with the counts that go on: of steps, and of the guard's own."""
    *moments, descent = state.opt_state
    descent = descent._replace(step=descent.step + 1)
    return TrainState(state.step + 1, state.params, (*moments, descent), after.guard)


def test_without_a_guard_or_an_average_the_program_has_no_trace_of_them():
    update, state, teacher_params = stage()
    lowered = jax.jit(update).lower(state, teacher_params, packed_batch(rows=8))
    assert "is_finite" not in lowered.as_text()
    assert "exponential_minus_one" not in lowered.as_text()


@pytest.mark.slow
def test_the_average_on_a_mesh_is_of_the_updates_that_the_guard_kept():
    mesh, d = partitioning(8, model=2, replica=2), 0.6
    average, guard = MovingAverage(decay=d), UpdateGuard()
    update, state, teacher_params = stage(
        mesh, num_microbatches=2, guard=guard, average=average
    )
    batch = packed_batch(rows=8)
    bad = batch.replace(weights_BL=batch.weights_BL.at[3].set(jnp.inf))
    step = jax.jit(update)
    first, _ = step(state, teacher_params, on_mesh(batch, mesh))
    dropped, _ = step(first, teacher_params, on_mesh(bad, mesh))
    jax.tree.map(np.testing.assert_array_equal, dropped.average, first.average)
    jax.tree.map(np.testing.assert_array_equal, first.average.params, first.params)
    last, _ = step(dropped, teacher_params, on_mesh(batch, mesh))
    assert int(last.average.updates) == 2 and int(last.step) == 3
    mean = lambda a, b: (d * np.asarray(a) + np.asarray(b)) / (d + 1.0)
    expected = jax.tree.map(mean, first.params, last.params)
    assert_close(last.average.params, expected, rtol=1e-6)
    places = lambda tree: [x.sharding for x in jax.tree.leaves(tree)]
    assert places(last.average.params) == places(last.params)
