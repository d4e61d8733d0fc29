import functools

import jax
import numpy as np
import pytest
from lm_eval.api.instance import Instance

from salt_jax.few_shot.language_model import SaltLM
from salt_jax.few_shot.likelihoods import LikelihoodReader
from salt_jax.few_shot.shared_prefixes import LikelihoodRequest
from salt_jax.storage.loaded import LoadedModel
from tests import examples, runs

MAX_LENGTH = 32


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("few_shot") / "export"
    runs.make_teacher(path)
    devices = jax.devices()[:1]
    model = LoadedModel.open(path, max_length=MAX_LENGTH, devices=devices)
    # Parameters as they are made say almost the same of every token.
    params = jax.tree.map(lambda x: x * 4, model.params)
    return LoadedModel(**{**vars(model), "params": params})


@pytest.fixture(scope="module")
def lm(loaded):
    return SaltLM(loaded, batch_size=2)


def requests(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments
    ]


@pytest.fixture
def asked():
    """What `watched` is asked, as tokens."""
    return []


@pytest.fixture
def watched(loaded, asked):
    """The model, which notes what it is asked."""
    reader = LikelihoodReader(loaded, 2, "watched")

    def read(questions):
        asked.extend((list(q.context), list(q.continuation)) for q in questions)
        return reader(questions)

    return SaltLM(loaded, batch_size=2, read=read)


def test_a_context_is_read_from_the_begin_token_on(watched, asked, loaded):
    encode = loaded.vocabulary.encode
    watched.loglikelihood(
        requests("loglikelihood", ("The capital is", " Rome"), ("", "A b"))
    )
    begin = loaded.vocabulary.begin_id
    assert asked == [
        ([begin, *encode("The capital is")], encode(" Rome")),
        ([begin], encode("A b")),
    ]


def test_spaces_that_end_a_context_belong_to_what_follows(watched, asked, loaded):
    pairs = ("The capital is  ", "Rome"), ("The capital is", "  Rome")
    spaced, plain = watched.loglikelihood(requests("loglikelihood", *pairs))
    assert asked[0] == asked[1] and spaced == plain
    assert "".join(map(loaded.vocabulary.decode, asked[0])).endswith("is  Rome")


def test_a_text_is_as_likely_as_its_parts_together(lm):
    text, cut = "the small model helps a large one", 9
    (whole,) = lm.loglikelihood(requests("loglikelihood", ("", text)))
    parts = lm.loglikelihood(
        requests("loglikelihood", ("", text[:cut]), (text[:cut], text[cut:]))
    )
    assert whole[0] == pytest.approx(sum(nats for nats, _ in parts), rel=1e-5)
    assert lm.loglikelihood_rolling(requests("", (text,))) == pytest.approx([whole[0]])


def test_each_token_of_a_long_text_is_predicted_once(watched, asked, loaded):
    text = "first the small model helps a large one, and then it leaves. " * 6
    tokens = loaded.vocabulary.encode(text)
    (nats,) = watched.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert len(tokens) > 2 * MAX_LENGTH
    assert [x for _, continuation in asked for x in continuation] == tokens
    assert asked[0][0] == [loaded.vocabulary.begin_id]
    # Of the later windows all that there is room for stands before.
    assert all(len(a) + len(b) == MAX_LENGTH + 1 for a, b in asked[1:])
    assert nats == pytest.approx(sum(x.log_likelihood for x in _answers(loaded, asked)))


def _answers(loaded, pairs):
    return LikelihoodReader(loaded, 1, "alone")([LikelihoodRequest(*x) for x in pairs])


def test_likelihoods_of_several_texts_are_not_mixed(lm):
    texts = ["the model " * 30, "", "helps", "a large one leaves " * 20]
    together = lm.loglikelihood_rolling(requests("", *((x,) for x in texts)))
    alone = [lm.loglikelihood_rolling(requests("", (x,)))[0] for x in texts]
    assert together == pytest.approx(alone, rel=1e-5) and together[1] == 0


def greedy(loaded, prompt, count):
    """The likeliest tokens, one after the other, without a cache."""
    read = functools.partial(_last_logits, loaded)
    tokens = [loaded.vocabulary.begin_id, *prompt]
    for _ in range(count):
        tokens.append(int(np.argmax(read(tokens))))
    return tokens[-count:]


def _last_logits(loaded, tokens):
    batch = examples.packed_batch(1, MAX_LENGTH)
    tokens_BL = np.zeros((1, MAX_LENGTH), np.int32)
    tokens_BL[0, : len(tokens)] = tokens
    positions_BL = np.arange(MAX_LENGTH, dtype=np.int32)[None]
    segments_BL = np.ones_like(tokens_BL)
    batch = batch.replace(
        tokens_BL=tokens_BL, positions_BL=positions_BL, segments_BL=segments_BL
    )
    return _logits(loaded.model)(loaded.params, batch)[0, len(tokens) - 1]


@functools.cache
def _logits(model):
    return jax.jit(lambda params, batch: model.apply(params, batch).logits())


@pytest.mark.slow
def test_a_text_is_the_likeliest_up_to_a_string_in_the_order_of_the_requests(
    lm, loaded
):
    vocabulary = loaded.vocabulary
    how = {"until": ["\n\n\n"], "max_gen_toks": 6, "do_sample": False}
    prompts = ["the small", "a large one first and then", "it"]
    expected = [
        vocabulary.decode(greedy(loaded, vocabulary.encode(prompt), 6))
        for prompt in prompts
    ]
    assert lm.generate_until(requests("", *((x, how) for x in prompts))) == expected
    # Another way of asking between two that are alike.
    stopped = how | {"until": expected[1][2:4]}
    given = requests("", (prompts[0], how), (prompts[1], stopped), (prompts[2], how))
    found = lm.generate_until(given)
    assert found[::2] == expected[::2]
    assert found[1] == expected[1].partition(expected[1][2:4])[0]


@pytest.mark.slow
def test_a_context_that_leaves_no_room_is_cut_on_its_left(lm, loaded):
    how = {"until": [], "max_gen_toks": 6}
    long = "the small model helps a large one first. " * 8
    (found,) = lm.generate_until(requests("", (long, how)))
    kept = loaded.vocabulary.encode(long)[-(MAX_LENGTH - 7) :]
    assert found == loaded.vocabulary.decode(greedy(loaded, kept, 6))


def test_more_text_than_there_is_room_for_is_refused(lm):
    how = {"until": ["\n"], "max_gen_toks": MAX_LENGTH}
    with pytest.raises(
        ValueError, match=r"32 new tokens.*32 with the prompt.*--max_length"
    ):
        lm.generate_until(requests("", ("a", how)))


def test_a_way_to_draw_that_there_is_not_is_refused(lm):
    how = {"until": ["\n"], "max_gen_toks": 2, "num_beams": 4}
    with pytest.raises(ValueError, match="generation options num_beams"):
        lm.generate_until(requests("", ("a", how)))


@pytest.mark.parametrize("pair", [("Who", ""), ("", "")])
def test_the_likelihood_of_nothing_is_refused_with_the_question(pair, lm):
    with pytest.raises(ValueError, match=rf"continuation '' of '{pair[0]}' has no"):
        lm.loglikelihood(requests("loglikelihood", ("a", " b"), pair))


def test_a_continuation_that_melts_into_its_context_is_refused(lm, monkeypatch):
    monkeypatch.setattr(lm, "_encode_pair", lambda *texts: ([0, 1], []))
    with pytest.raises(ValueError, match="continuation 'l' of ' smal' has no token"):
        lm.loglikelihood(requests("loglikelihood", (" smal", "l")))
