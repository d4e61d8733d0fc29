import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.batch import Batch
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.few_shot import likelihoods
from salt_jax.few_shot.likelihoods import LikelihoodReader
from salt_jax.few_shot.shared_prefixes import LikelihoodRequest
from salt_jax.storage.loaded import LoadedModel
from tests import examples, runs

MAX_LENGTH = 24


def loaded(mesh=None):
    model, params = examples.small_model(mesh, logit_softcap=4.0)
    # Parameters as they are made say almost the same of every token.
    params = jax.tree.map(lambda x: x * 3, params)
    return LoadedModel(
        name="small",
        model=model,
        params=params,
        vocabulary=Vocabulary.open(runs.VOCABULARY),
        max_length=MAX_LENGTH,
    )


@pytest.fixture(scope="module")
def alone():
    return loaded()


def some_questions():
    rng = np.random.default_rng(0)

    def tokens(count):
        return rng.integers(3, 64, count).tolist()

    shared = tokens(7)
    return [
        *(LikelihoodRequest(tokens(rng.integers(1, 12)), tokens(2)) for _ in range(9)),
        # The second is about a beginning of the first's tokens, the third is the same
        # question again, and the fourth differs in its last token alone.
        LikelihoodRequest(shared, [9, 8, 7]),
        LikelihoodRequest(shared, [9]),
        LikelihoodRequest(shared, [9]),
        LikelihoodRequest(shared, [9, 8, 6]),
        LikelihoodRequest(tokens(30), tokens(5)),  # The context is cut.
        LikelihoodRequest(tokens(3), tokens(MAX_LENGTH)),
        LikelihoodRequest([0], tokens(1)),
    ]


@functools.cache
def dense_logits(model):
    """All logits of a row, in one program."""

    @jax.jit
    def read(params, tokens_BL):
        ones_BL = jnp.ones_like(tokens_BL)
        positions_BL = jnp.arange(MAX_LENGTH)[None]
        batch = Batch(tokens_BL, tokens_BL, ones_BL * 1.0, ones_BL, positions_BL)
        return model.apply(params, batch).logits()

    return read


def dense_answers(model, questions):
    """Returns the answers, from all logits of one question at a time."""
    found = []
    for question in questions:
        whole = [*question.context, *question.continuation][-(MAX_LENGTH + 1) :]
        tokens_BL = np.zeros((1, MAX_LENGTH), np.int32)
        tokens_BL[0, : len(whole) - 1] = whole[:-1]
        logits_LV = np.asarray(dense_logits(model.model)(model.params, tokens_BL))[0]
        asked = len(question.continuation)
        logits_LV = logits_LV[: len(whole) - 1][-asked:].astype(np.float64)
        log_p_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
        nats = sum(log_p_LV[i, token] for i, token in enumerate(whole[-asked:]))
        found.append((nats, logits_LV.argmax(-1).tolist() == whole[-asked:]))
    return found


def as_pairs(answers):
    return [(answer.log_likelihood, answer.is_greedy) for answer in answers]


def test_answers_are_those_of_the_dense_logits_in_the_order_of_the_questions(alone):
    questions = some_questions()
    answers = as_pairs(LikelihoodReader(alone, 2, "small")(questions))
    expected = dense_answers(alone, questions)
    np.testing.assert_allclose(answers, expected, rtol=1e-5)
    assert np.std([nats / len(q.continuation) for q, (nats, _) in
                   zip(questions, answers, strict=True)]) > 0.5  # fmt: skip


def test_what_a_model_would_write_is_greedy_and_nothing_else(alone):
    def would_write(context):
        tokens_BL = np.zeros((1, MAX_LENGTH), np.int32)
        tokens_BL[0, : len(context)] = context
        logits_LV = dense_logits(alone.model)(alone.params, tokens_BL)[0]
        return int(logits_LV[len(context) - 1].argmax())

    context = [5, 6, 7]
    first = would_write(context)
    second = would_write([*context, first])
    other = (second + 1) % 64
    questions = [LikelihoodRequest(context, [first, x]) for x in (second, other)]
    answers = LikelihoodReader(alone, 2, "small")(questions)
    assert [answer.is_greedy for answer in answers] == [True, False]


@pytest.mark.parametrize(
    "shape", [dict(devices=8), dict(devices=8, model=2), dict(devices=8, replica=2)]
)
def test_answers_do_not_depend_on_the_mesh(shape, alone):
    questions = some_questions()
    on_mesh = loaded(examples.partitioning(**shape))
    answers = as_pairs(LikelihoodReader(on_mesh, 2, "small")(questions))
    expected = as_pairs(LikelihoodReader(alone, 2, "small")(questions))
    np.testing.assert_allclose(answers, expected, rtol=1e-5)


def test_a_beginning_of_what_is_read_is_not_read_again(alone, monkeypatch):
    read = []
    statistics = likelihoods._statistics

    def watched(params, tokens_BL, segments_BL, *others, **model):
        read.append(int(np.asarray(segments_BL).any(axis=1).sum()))
        return statistics(params, tokens_BL, segments_BL, *others, **model)

    monkeypatch.setattr(likelihoods, "_statistics", watched)
    shared = [4, 5, 6]
    choices = [[9, 8, 7], [9, 8], [9], [30]]
    LikelihoodReader(alone, 8, "small")([LikelihoodRequest(shared, x) for x in choices])
    assert read == [1]


@pytest.mark.slow
def test_few_shapes_are_compiled_for_many_lengths(alone):
    long = dataclasses.replace(alone, max_length=300)
    rng = np.random.default_rng(1)
    questions = [
        LikelihoodRequest(
            rng.integers(3, 64, n).tolist(), rng.integers(3, 64, 4).tolist()
        )
        for n in range(1, 290)
    ]
    before = likelihoods._statistics._cache_size()
    LikelihoodReader(long, 2, "small")(questions)
    assert likelihoods._statistics._cache_size() - before <= 5


def test_models_of_one_shape_share_their_programs(alone):
    questions = some_questions()
    LikelihoodReader(alone, 2, "small")(questions)
    before = likelihoods._statistics._cache_size()
    LikelihoodReader(loaded(), 2, "another")(questions)
    assert likelihoods._statistics._cache_size() == before


@pytest.mark.parametrize("count", [0, MAX_LENGTH + 1])
def test_a_continuation_that_cannot_be_read_is_refused(count, alone):
    with pytest.raises(ValueError, match=rf"small is asked .* of {count} tokens"):
        LikelihoodReader(alone, 2, "small")([LikelihoodRequest([0], [3] * count)])


def test_a_batch_without_rows_is_refused(alone):
    with pytest.raises(ValueError, match="batch_size=0"):
        LikelihoodReader(alone, 0, "small")


@pytest.mark.parametrize("num_questions, rows", [(1, 8), (5, 8), (50, 64), (500, 64)])
def test_a_batch_is_as_large_as_the_questions_whatever_the_model_could_read(
    num_questions, rows, alone, monkeypatch
):
    shapes = {}

    def noted(params, tokens_BL, *others, **model):
        shapes.setdefault(length, []).append(tokens_BL.shape)
        raise StopIteration

    monkeypatch.setattr(likelihoods, "_statistics", noted)
    questions = [
        LikelihoodRequest([3 + i // 50, 3 + i % 50], [5] * 20)
        for i in range(num_questions)
    ]
    for length in (512, 131_072):
        reader = dataclasses.replace(alone, max_length=length)
        with pytest.raises(StopIteration):
            LikelihoodReader(reader, 8, "long")(questions)
    assert shapes[512] == shapes[131_072] == [(rows, 64)]


def test_one_long_question_makes_no_large_batches_of_few_short_ones(alone):
    long = dataclasses.replace(alone, max_length=131_072)
    reader = LikelihoodReader(long, 8, "long")
    assert reader._num_rows(64, longest=100_000, asked=6) == 8
    assert reader._num_rows(64, longest=100_000, asked=1_000) == 1_024
    assert reader._num_rows(64, longest=512, asked=1_000_000) == 64
