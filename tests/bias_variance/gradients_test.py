"""Gradients by one-hot, teacher's and true labels, of a language with a known truth."""

import dataclasses

import jax
import numpy as np
import pytest

from salt_jax.bias_variance.gradients import (
    ONE_HOT,
    TEACHER,
    TRUTH,
    LabelGradients,
    truth_as_teacher,
)
from salt_jax.bias_variance.labels import stage_with_teacher
from salt_jax.bias_variance.moments import MomentsOf
from salt_jax.config import Experiment, Stage
from salt_jax.data.reading.loader import Loader
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.training.program import Program
from tests.known_language import MODEL, language

SEQ_LEN, BATCH_SIZE, BATCHES = 8, 8, 400


def program_on(data, devices=1, **mesh):
    experiment = Experiment(
        model=MODEL,
        stages=(Stage(name="all", end_step=1, data=data),),
        optimizer=AdamW(learning_rate=Constant(value=1e-3)),
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        mesh=MeshShape(**mesh),
        loss_chunk_tokens=16,
    )
    return Program.on(experiment, jax.devices()[:devices])


def loader_of(program):
    return Loader(
        program.experiment.stages[0].data,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        seed=0,
        partitioning=program.partitioning,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Gradients of many batches of a fresh student, by three kinds of labels.

    The teacher is another fresh model.
    """
    data = language(tmp_path_factory.mktemp("language"))
    program = program_on(data)
    loader = loader_of(program)
    student = program.fresh_state().params
    other = dataclasses.replace(program.experiment, seed=1)
    teacher = Program.on(other, jax.devices()[:1]).fresh_state().params
    gradients = LabelGradients(program=program).by_labels(
        {
            TEACHER: (program.student.apply, teacher),
            TRUTH: truth_as_teacher(data.truth(), MODEL.vocab_size),
        }
    )
    found = MomentsOf([ONE_HOT, TEACHER, TRUTH])
    kept = []
    for index in range(BATCHES):
        of_batch = gradients(student, loader.device_batch(index))
        found.add(of_batch)
        kept.append([_flat(x) for x in of_batch])
    return found.moments(), np.array(kept, np.float64)


def _flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_labels_of_the_truth_have_the_mean_of_one_hot_labels(measured):
    _, gradients = measured
    difference = gradients[:, 2] - gradients[:, 0]
    error = difference.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    moving = error > 1e-9
    scores = difference.mean(axis=0)[moving] / error[moving]
    assert moving.sum() > 100
    assert np.abs(scores).max() < 4.5
    assert np.mean(scores**2) == pytest.approx(1.0, abs=0.5)


def test_labels_of_another_model_have_another_mean(measured):
    _, gradients = measured
    difference = gradients[:, 1] - gradients[:, 0]
    error = difference.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    moving = error > 1e-9
    assert np.mean((difference.mean(axis=0)[moving] / error[moving]) ** 2) > 10


def test_soft_labels_have_less_variance(measured):
    moments, _ = measured
    assert moments.variance(TRUTH) < 0.5 * moments.variance(ONE_HOT)
    assert moments.variance(TEACHER) < 0.5 * moments.variance(ONE_HOT)


def test_the_bias_of_the_truth_is_within_its_noise_and_of_another_model_above(measured):
    moments, _ = measured
    found = moments.describe()["soft"]
    assert abs(found[TRUTH]["squared_bias"]) < found[TRUTH]["squared_bias_noise"]
    assert found[TEACHER]["squared_bias"] > 10 * found[TEACHER]["squared_bias_noise"]


def test_moments_are_those_of_the_gradients_themselves(measured):
    moments, gradients = measured
    for i, name in enumerate(moments.names):
        variance = gradients[:, i].var(axis=0, ddof=1).sum()
        assert moments.variance(name) == pytest.approx(variance, rel=1e-3)


def test_a_teachers_rows_of_padding_are_masked_as_in_training(tmp_path):
    num_real = MODEL.vocab_size - 1
    data = language(tmp_path)
    program = program_on(data)
    batch = loader_of(program).device_batch(0)
    batch = dataclasses.replace(
        batch,
        tokens_BL=batch.tokens_BL % num_real,
        targets_BL=batch.targets_BL % num_real,
    )
    student = program.fresh_state().params
    other = dataclasses.replace(program.experiment, seed=1)
    teacher = Program.on(other, jax.devices()[:1]).fresh_state().params
    shape = (MODEL.vocab_size, MODEL.embed_dim)
    louder = jax.tree.map(
        lambda x: x.at[num_real:].add(5.0) if x.shape == shape else x, teacher
    )

    def of(params, **masked):
        gradients = LabelGradients(program=program, **masked)
        by_labels = gradients.by_labels({TEACHER: (program.student.apply, params)})
        return _flat(by_labels(student, batch)[1])

    masked = {"real_vocab_size": num_real}
    np.testing.assert_array_equal(of(teacher, **masked), of(louder, **masked))
    assert np.abs(of(teacher) - of(louder)).max() > 1e-3


@pytest.mark.slow
def test_a_mesh_of_four_measures_what_one_device_does(tmp_path):
    found = []
    data = language(tmp_path)
    for devices, mesh in ((1, {}), (4, {"model": 2})):
        program = program_on(data, devices, **mesh)
        gradients = LabelGradients(program=program).by_labels(
            {TRUTH: truth_as_teacher(data.truth(), MODEL.vocab_size)}
        )
        moments = MomentsOf([ONE_HOT, TRUTH])
        for index in range(3):
            batch = loader_of(program).device_batch(index)
            moments.add(gradients(program.fresh_state().params, batch))
        found.append(moments.moments())
    np.testing.assert_allclose(
        found[1].covariances_KK, found[0].covariances_KK, rtol=1e-3
    )


def test_an_experiment_without_a_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No stage of this experiment has a teacher"):
        stage_with_teacher(program_on(language(tmp_path)).experiment)
