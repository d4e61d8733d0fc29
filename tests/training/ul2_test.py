"""A run whose first stage learns UL2 with a teacher, and whose second is causal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.loader import Loader
from salt_jax.data.reading.objectives import CausalLM, Mixture, PrefixLM, SpanCorruption
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from tests import runs
from tests.data.ul2 import VOCABULARY

pytestmark = pytest.mark.slow  # It trains three times.

OBJECTIVE = Mixture(
    denoisers=(CausalLM(), PrefixLM(), SpanCorruption(rate=0.5, mean_length=2.0)),
    weights=(1, 2, 1),
)
VOCAB_SIZE = 4224


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    runs.make_corpus(folder / "corpus")
    prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=VOCABULARY,
            output=str(folder / "data"),
            seq_len=runs.SEQ_LEN,
        )
    )
    runs.make_teacher(folder / "teacher", sized(runs.TEACHER), VOCABULARY)
    return folder


def sized(model):
    return dataclasses.replace(model, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def experiment(files):
    causal = PreparedText(path=str(files / "data"), vocabulary=VOCABULARY)
    plain = runs.experiment(files)
    first, second = plain.stages
    distillation = dataclasses.replace(first.distillation, teacher=sized(runs.TEACHER))
    ul2 = dataclasses.replace(causal, objective=OBJECTIVE)
    return dataclasses.replace(
        plain,
        model=sized(runs.STUDENT),
        stages=(
            dataclasses.replace(first, data=ul2, distillation=distillation),
            dataclasses.replace(second, data=causal),
        ),
        validation=dataclasses.replace(
            plain.validation, data=dataclasses.replace(causal, split="val")
        ),
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A run of both stages: its last state, and its records by step."""
    workdir = tmp_path_factory.mktemp("run")
    state = train(experiment, workdir)
    records = [x for x in read_metrics(workdir) if "loss" in x]
    return state, {record["step"]: record for record in records}


def first_batch(experiment):
    """The batch of the first step, whole."""
    loader = Loader(
        experiment.stages[0].data,
        batch_size=experiment.batch_size,
        seq_len=experiment.seq_len,
        seed=experiment.seed,
        partitioning=Program.on(experiment).partitioning,
    )
    return loader.host_batch(0)


def cross_entropy(model, params, batch):
    """Of the targets that count, from all logits on one device."""
    logits_BLV = jax.device_get(model.apply(params, batch).logits())
    log_BLV = jax.nn.log_softmax(jnp.asarray(logits_BLV))
    ce_BL = -np.take_along_axis(np.asarray(log_BLV), batch.targets_BL[..., None], -1)
    return ce_BL[..., 0][batch.weights_BL == 1].mean()


def test_both_stages_are_trained_and_the_teacher_helps_in_the_first(run):
    _, records = run
    assert sorted(records) == list(range(1, runs.TOTAL_STEPS + 1))
    for step, record in records.items():
        assert record["stage"] == ("distill" if step <= runs.N_KD else "standard")
        assert ("kd" in record) == (step <= runs.N_KD)
        assert np.isfinite(record["loss"])


def test_the_loss_of_a_step_counts_targets_only_and_sees_the_prefix(experiment, run):
    _, records = run
    batch = first_batch(experiment)
    assert 0 < batch.weights_BL.sum() < (batch.segments_BL > 0).sum()
    program = Program.on(experiment)
    params = program.fresh_state().params
    teacher = program.teacher(experiment.stages[0].distillation)
    inputs = StageInputs.open(program, experiment.stages[0])
    teacher_params = inputs.load_teacher(program)
    student_ce = cross_entropy(program.student, params, batch)
    np.testing.assert_allclose(records[1]["ce"], student_ce, rtol=1e-5)
    teacher_ce = cross_entropy(teacher, teacher_params, batch)
    np.testing.assert_allclose(records[1]["teacher_ce"], teacher_ce, rtol=1e-5)
    # The teacher's one layer shows its targets the prefix as a causal one would.
    blind = cross_entropy(program.student, params, batch.replace(prefix_BL=None))
    assert abs(blind - student_ce) > 1e-4


def test_tokens_are_counted_as_rows_times_length_in_either_stage(experiment, run):
    _, records = run
    for step, record in records.items():
        assert record["tokens"] == step * experiment.batch_size * experiment.seq_len


def test_a_run_that_broke_off_ends_where_an_unbroken_one_does(
    experiment, run, tmp_path
):
    class BrokenOffError(Exception):
        pass

    def break_off():
        raise BrokenOffError

    with pytest.raises(BrokenOffError):
        train(experiment, tmp_path, open_batches=runs.open_then(3, break_off))
    state = train(experiment, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state.params, run[0].params)


def test_held_out_text_is_read_causally_whatever_the_objective(experiment, run):
    state, _ = run

    def loss(objective):
        data = dataclasses.replace(experiment.validation.data, objective=objective)
        validation = dataclasses.replace(experiment.validation, data=data)
        changed = dataclasses.replace(experiment, validation=validation)
        return held_out_of(Program.on(changed)).open()(state.params)["val_loss"]

    assert loss(OBJECTIVE) == loss(CausalLM())
