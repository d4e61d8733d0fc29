"""What a validation measures of a teacher, against dense references."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.evaluation.beside_teacher import BesideTeacher
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.loss.losses import salt_loss
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.transition.leaving import WhenGainStalls
from tests import runs

MESHES = [(runs.MESH, 1), (MeshShape(replica=2, data=2, model=2), 2)]


@pytest.fixture(scope="module", params=MESHES, ids=["one microbatch", "two"])
def found(request, files):
    """The measures of one experiment, and the logits of both models of its rows."""
    mesh, num_microbatches = request.param
    run = runs.adaptive(files, leave=WhenGainStalls(least=0.1))
    run = dataclasses.replace(run, mesh=mesh, num_microbatches=num_microbatches)
    program = Program.on(run)
    stage = run.stages[0]
    teacher = StageInputs.open(program, stage).load_teacher(program)
    beside = BesideTeacher(program, held_out_of(program).rows())
    return program, beside, stage, program.fresh_state().params, teacher


def batch_of(beside, count):
    """The first rows, and rows without weight that fill them up to 16."""
    rows = beside.rows.read(np.arange(count))
    fill = lambda x: jnp.asarray(np.pad(x, ((0, 16 - count), (0, 0))))
    return jax.tree.map(fill, rows)


def dense(found, params, batch, kd_weight):
    """The metrics of the dense loss; its logits are whole."""
    program, _, stage, _, teacher = found
    models = (program.student, params), (program.teacher(stage.distillation), teacher)
    logits = [model.apply(p, batch).logits() for model, p in models]
    return salt_loss(*logits, batch.targets_BL, batch.weights_BL, kd_weight=kd_weight)


def measured(found, on):
    _, beside, stage, params, teacher = found
    rule = WhenGainStalls(on=on, least=0.1)
    return beside.measured(dataclasses.replace(stage, leave=rule), params, teacher)


@pytest.mark.slow
def test_the_teacher_s_loss_and_kl_are_means_over_all_rows(found):
    _, beside, stage, params, teacher = found
    assert beside.rows.count == 10
    want = dense(found, params, batch_of(beside, 10), 0.5)
    loss = beside.loss(stage, teacher)
    np.testing.assert_allclose(loss, want["teacher_ce"].mean(), rtol=1e-5)
    kl = measured(found, "kl")["val_kl"]
    np.testing.assert_allclose(kl, want["kl"].mean(), rtol=1e-4)


@pytest.mark.slow
def test_the_agreement_is_the_cosine_of_the_gradients_of_both_terms(found):
    _, beside, _, params, _ = found
    batch = batch_of(beside, 8)

    @jax.jit
    def gradient(kd_weight):
        loss = lambda params: dense(found, params, batch, kd_weight)["loss"].mean()
        grads = jax.tree.leaves(jax.grad(loss)(params))
        return jnp.concatenate([x.ravel() for x in grads])

    ce, kd = (np.asarray(gradient(w), np.float64) for w in (0.0, 1.0))
    cosine = ce @ kd / np.linalg.norm(ce) / np.linalg.norm(kd)
    got = measured(found, "gradient_agreement")["val_gradient_agreement"]
    assert 0.01 < abs(cosine) < 0.99, cosine
    np.testing.assert_allclose(got, cosine, rtol=1e-4)


def test_the_identity_of_a_measurement_is_of_teacher_rows_and_count(found):
    _, beside, stage, *_ = found
    masked = dataclasses.replace(stage.distillation, real_vocab_size=4096)
    masked = dataclasses.replace(stage, distillation=masked)
    fewer = dataclasses.replace(beside.rows, count=9)
    other = dataclasses.replace(beside.rows, fingerprint="other")
    names = {
        beside.identity(stage, "a"),
        beside.identity(stage, "b"),
        beside.identity(masked, "a"),
        dataclasses.replace(beside, rows=fewer).identity(stage, "a"),
        dataclasses.replace(beside, rows=other).identity(stage, "a"),
    }
    assert len(names) == 5
