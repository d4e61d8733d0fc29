import dataclasses
import json

import jax
import numpy as np
import pytest

from salt_jax.config import Stage, Validation
from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.mixture import PreparedMixture
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.evaluation.reader import Reader, reader_of
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.training.program import Program
from tests import runs
from tests.examples import dense_reading, partitioning

COUNT = 10


def program_of(files, devices=None, **changes):
    return Program.on(runs.experiment(files, **changes), devices)


@pytest.fixture(scope="module")
def params(files):
    return program_of(files).fresh_state().params


def loss(program, params):
    like = program.abstract_state.params
    shardings = jax.tree.map(lambda x: x.sharding, like)
    measure = held_out_of(program).open()
    return measure(jax.device_put(params, shardings))["val_loss"]


def opened(program):
    return program.experiment.validation.data.open(seq_len=runs.SEQ_LEN)


def dense_loss(program, params, count):
    dataset = opened(program)
    sequences = dataset.read(np.arange(count))
    ce_NL, _ = dense_reading(runs.STUDENT, params, sequences)
    return ce_NL.mean(where=sequences.segments > 0)


def test_the_loss_is_the_mean_cross_entropy_of_the_first_sequences(files, params):
    # Stage one has a teacher: the held-out loss is not a blend with it.
    program = program_of(files)
    expected = dense_loss(program, params, COUNT)
    assert loss(program, params) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def on_one_device(files, params):
    return loss(program_of(files, jax.devices()[:1], mesh=MeshShape()), params)


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": MeshShape()},
        {"mesh": MeshShape(replica=2, model=2)},
        {"batch_size": 4},
        {"batch_size": 32},
        {"num_microbatches": 2},
        {"loss_chunk_tokens": 3},
    ],
    ids=str,
)
def test_the_loss_does_not_depend_on_how_it_is_measured(
    change, files, params, on_one_device
):
    found = loss(program_of(files, **change), params)
    assert found == pytest.approx(on_one_device, rel=1e-6)


def test_a_split_with_fewer_sequences_is_read_to_its_end(files, params):
    data = runs.experiment(files).validation.data
    validation = Validation(data=data, every=3, num_sequences=1000)
    program = program_of(files, validation=validation)
    assert (opened(program).read(np.array([19])).segments == 0).any()
    expected = dense_loss(program, params, 20)
    assert loss(program, params) == pytest.approx(expected, rel=1e-6)


def test_of_questions_the_loss_is_the_mean_over_the_answers(files, params, tmp_path):
    records = [
        {"question": f"{number} and then?", "answer": "it leaves " * number}
        for number in range(1, 8)
    ]
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "val.jsonl").write_text(lines)
    data = Answers(source=str(tmp_path), vocabulary=runs.VOCABULARY, split="val")
    validation = Validation(data=data, every=3, num_sequences=1000)
    program = program_of(files, validation=validation, seq_len=64)
    questions = data.read(seq_len=64)
    targets_BL = np.zeros((len(questions), 64), np.int32)
    is_answer_BL = np.zeros((len(questions), 64), bool)
    for row, question in enumerate(questions):
        inputs, targets = question.example
        tokens = np.concatenate([inputs, targets])
        targets_BL[row, : len(tokens)] = tokens
        is_answer_BL[row, len(inputs) : len(tokens)] = True
    ones_BL = np.ones_like(targets_BL)
    # Not packed: each question alone in a row, behind the token that begins a text.
    unpacked = Sequences(
        tokens=targets_BL,
        segments=ones_BL,
        positions=ones_BL * np.arange(64, dtype=np.int32)[None],
        domains=ones_BL,
    )
    ce_BL, _ = dense_reading(runs.STUDENT, params, unpacked)
    expected = ce_BL.mean(where=is_answer_BL)
    assert loss(program, params) == pytest.approx(expected, rel=1e-5)


def test_data_of_no_kind_that_is_held_out_is_refused(files):
    data = runs.experiment(files).stages[0].data
    stage = Stage(
        name="mixed",
        end_step=1,
        data=PreparedMixture(parts=(data, data), weights=(1, 1)),
    )
    program = program_of(files, validation=None, stages=(stage,))
    with pytest.raises(ValueError, match=r"PreparedText or Answers.* PreparedMixture"):
        held_out_of(program)


def test_a_validation_that_is_not_prepared_is_refused(files):
    run = runs.experiment(files)
    data = dataclasses.replace(run.validation.data, split="nothing")
    validation = dataclasses.replace(run.validation, data=data)
    with pytest.raises(FileNotFoundError, match="No prepared data at .*nothing"):
        held_out_of(program_of(files, validation=validation)).open()


def test_sequences_come_in_the_order_that_they_were_asked_for(files, params):
    program = program_of(files)
    dataset = opened(program)
    ids = np.array([7, 3, 3, 19, 0, 1, 2, 4, 5, 6, 8])
    parts = list(reader_of(program)(params, dataset, ids))
    assert [len(part.ce_NL) for part in parts] == [8, 3]
    tokens = np.concatenate([part.sequences.tokens for part in parts])
    np.testing.assert_array_equal(tokens, dataset.read(ids).tokens)
    ce_NL, rank_NL = dense_reading(runs.STUDENT, params, dataset.read(ids))
    is_target = np.concatenate([part.is_target for part in parts])
    # A last bit of a logit can swap it with its neighbor in rank.
    for name, expected, atol in ("ce_NL", ce_NL, 0), ("rank_NL", rank_NL, 1):
        found = np.concatenate([getattr(part, name) for part in parts])[is_target]
        np.testing.assert_allclose(found, expected[is_target], rtol=1e-5, atol=atol)


def test_no_sequences_are_no_batches(files):
    program = program_of(files)
    reading = reader_of(program)
    assert list(reading(None, opened(program), np.arange(0))) == []


@pytest.mark.parametrize("batch_size", [0, 2, 9])
def test_a_batch_that_does_not_divide_over_the_mesh_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} does not divide"):
        Reader(read=None, partitioning=partitioning(8, model=2), batch_size=batch_size)
