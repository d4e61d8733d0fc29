"""A run that fine-tunes, from its start to its evaluation."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from salt_jax.config import Distillation
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluate import evaluate_run
from salt_jax.loss.losses import salt_loss
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.optim.schedules import Constant
from salt_jax.storage.array_files import fingerprint
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.stop_signals import PreemptedError
from tests import runs
from tests.evaluation import questions
from tests.evaluation.questions import TOTAL_STEPS, experiment

# Of nltk, whose stemmer rouge_score imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANSWERED = ("exact_match", "f1", "rouge1", "rouge2", "rougeL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    questions.make_questions(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, train(experiment(folder), workdir)


@pytest.mark.slow
def test_it_starts_from_the_export_and_learns(folder, unbroken):
    started = Program.on(experiment(folder)).fresh_state().params
    exported = json.loads((folder / "start/export.json").read_text())["fingerprint"]
    assert fingerprint(started) == exported
    losses = [r["loss"] for r in read_metrics(unbroken[0]) if "loss" in r]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_answers_are_scored_at_every_validation_and_after_the_last_step(unbroken):
    records = [r for r in read_metrics(unbroken[0]) if "val_loss" in r]
    assert [record["step"] for record in records] == [2, 4, TOTAL_STEPS]
    for record in records:
        values = [record[f"val_{name}"] for name in ANSWERED]
        assert all(0.0 <= value <= 1.0 for value in values)
    assert (unbroken[0] / "events").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [3])
def test_a_run_that_was_stopped_ends_bit_for_bit_where_an_unbroken_one_does(
    step, folder, unbroken, tmp_path
):
    def stop():
        raise PreemptedError("stopped")

    with pytest.raises(PreemptedError):
        train(experiment(folder), tmp_path, open_batches=runs.open_then(step, stop))
    state = train(experiment(folder), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, unbroken[1])
    found, expected = (
        [{k: v for k, v in r.items() if k.startswith("val_")} for r in read_metrics(w)]
        for w in (tmp_path, unbroken[0])
    )
    assert found == expected


@pytest.mark.slow
def test_evaluation_is_of_all_questions_and_of_each_value_of_a_column(folder, unbroken):
    shown = evaluate_run(experiment(folder), unbroken[0])
    evaluation = json.loads((unbroken[0] / "evaluation.json").read_text())
    assert evaluation["step"] == TOTAL_STEPS
    for split, count in ("val", 9), ("test", 7):
        result = evaluation["splits"][split]
        total, kinds = result["total"], result["columns"]["kind"]
        assert total["questions"] == count
        assert {*ANSWERED, "loss", "tokens", "questions"} == {*total}
        assert [*kinds] == ["even", "odd"]
        for name in ANSWERED:
            parts = sum(kind[name] * kind["questions"] for kind in kinds.values())
            assert parts == pytest.approx(total[name] * count)
        nats = sum(kind["loss"] * kind["tokens"] for kind in kinds.values())
        assert nats == pytest.approx(total["loss"] * total["tokens"])
    val = [r for r in read_metrics(unbroken[0]) if "val_loss" in r][-1]
    found = evaluation["splits"]["val"]["total"]["loss"]
    assert found == pytest.approx(val["val_loss"], rel=1e-6)
    samples = json.loads((unbroken[0] / "samples.json").read_text())["samples"]
    assert len(samples) == 7 and {*samples[0]} == {"question", "answer", "wanted"}
    rows = [line.split() for line in shown.splitlines()]
    assert ["val", "kind:", "even"] in [row[:3] for row in rows]
    assert ["test", "total"] in [row[:2] for row in rows]
    assert f"Wanted:   {samples[0]['wanted']}" in shown


def test_an_export_of_another_vocabulary_is_refused(folder, tmp_path):
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    other = tmp_path / "other.model"
    other.write_bytes(vocabulary.add_control_pieces(["<one_more>"]))
    model = dataclasses.replace(runs.STUDENT, vocab_size=4224)
    runs.make_teacher(tmp_path / "start", model, str(other))
    run = experiment(folder, model=model, initial_export=str(tmp_path / "start"))
    with pytest.raises(ValueError, match="vocabulary"):
        Program.on(run).fresh_state()


def test_an_export_of_another_model_is_refused(folder):
    model = dataclasses.replace(runs.STUDENT, num_layers=3)
    with pytest.raises(ValueError, match="num_layers=2, not 3"):
        Program.on(experiment(folder, model=model)).fresh_state()


def test_a_question_that_leaves_no_room_for_an_answer_is_refused_at_once(
    folder, tmp_path
):
    run = experiment(folder, answering={"max_new_tokens": 40})
    with pytest.raises(ValueError, match="max_new_tokens=40 leaves 8 of the 48"):
        train(run, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_teacher_may_help_with_answers_too(folder, tmp_path):
    runs.make_teacher(tmp_path / "teacher")
    distillation = Distillation(
        teacher=runs.TEACHER,
        teacher_export=str(tmp_path / "teacher"),
        kd_weight=Constant(value=0.5),
        teacher_dtype="float32",
    )
    (stage,) = experiment(folder).stages
    stage = dataclasses.replace(stage, distillation=distillation, end_step=2)
    mesh = MeshShape()
    run = experiment(folder, stages=(stage,), validation=None, mesh=mesh)
    train(run, tmp_path / "run")
    first = read_metrics(tmp_path / "run")[0]
    program = Program.on(run, jax.devices()[:1])
    batch = stage.data.open_rows(seq_len=run.seq_len, seed=run.seed).read(np.arange(8))

    @jax.jit
    def dense_loss(params, teacher_params, batch):
        student = program.student.apply(params, batch).logits()
        teacher = program.teacher(distillation).apply(teacher_params, batch).logits()
        counts_BL = batch.weights_BL
        return salt_loss(student, teacher, batch.targets_BL, counts_BL, kd_weight=0.5)

    params = program.fresh_state().params
    teacher_params = StageInputs.open(program, stage).load_teacher(program)
    expected = dense_loss(params, teacher_params, batch)
    for name in ("loss", "ce", "kd", "teacher_ce"):
        assert first[name] == pytest.approx(float(expected[name].mean()), rel=1e-4)
