import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.batch import Batch
from salt_jax.data.sentencepiece_vocabulary import SentencePieceCodec
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation import prefill_decode
from salt_jax.generation.generator import Generator
from salt_jax.generation.sampling import Sampling
from tests import runs
from tests.examples import partitioning, saying, small_model

VOCABULARY = Vocabulary.open(runs.VOCABULARY)
MAX_LENGTH = 40
DRAW = np.random.default_rng(0)
PROMPTS = [DRAW.integers(3, 4096, n).tolist() for n in (5, 0, 17, 1, 9)]
HOT = Sampling(temperature=1.5, top_k=500, top_p=0.99)


def model_of(mesh=None, **changes):
    """A small model that heeds what was before, and where, as a trained one does."""
    changes = {"tied_embedding": False} | changes
    model, params = small_model(mesh, vocab_size=VOCABULARY.size, **changes)
    louder = {"query": 6.0, "key": 6.0, "out": 4.0}

    def change(path, x):
        return x * louder.get(path[-1].key, 1.0)

    return model, jax.tree_util.tree_map_with_path(change, params)


@pytest.fixture(scope="module")
def model_and_params():
    return model_of()


@pytest.fixture(scope="module")
def write(model_and_params):
    """Writes with the small model, by default eight tokens after each prompt."""
    model, params = model_and_params

    def write(prompts=PROMPTS, batch_size=8, **options):
        generator = Generator(model, VOCABULARY, MAX_LENGTH, batch_size=batch_size)
        return generator(params, prompts, **{"max_new_tokens": 8} | options)

    return write


@functools.partial(jax.jit, static_argnums=0)
def next_token(model, params, tokens_1L, at):
    ones = jnp.ones(tokens_1L.shape, jnp.int32)
    positions = jnp.arange(tokens_1L.shape[1], dtype=jnp.int32)[None]
    batch = Batch(tokens_1L, tokens_1L, 1.0 * ones, ones, positions)
    return jnp.argmax(model.apply(params, batch).logits()[0, at])


def likeliest(model, params, prompt, num_tokens):
    """Greedy tokens after one prompt, which is read anew, alone, for each of them."""
    text = [VOCABULARY.begin_id, *prompt]
    for _ in range(num_tokens):
        padded = text + [7] * (MAX_LENGTH - len(text))
        token = next_token(model, params, jnp.asarray([padded]), len(text) - 1)
        text.append(int(token))
    return text[len(prompt) + 1 :]


@pytest.mark.parametrize("scan_layers", [True, False])
def test_what_is_written_are_the_likeliest_tokens_one_by_one(scan_layers):
    model, params = model_of(scan_layers=scan_layers)
    written = Generator(model, VOCABULARY, MAX_LENGTH)(
        params, PROMPTS, max_new_tokens=8
    )
    expected = [likeliest(model, params, prompt, 8) for prompt in PROMPTS]
    assert written == expected
    assert len({token for tokens in written for token in tokens}) > 15


@pytest.mark.slow
def test_a_mesh_writes_what_one_device_writes(write):
    model, params = model_of(partitioning(8, model=2))
    generator = Generator(model, VOCABULARY, MAX_LENGTH)
    assert generator(params, PROMPTS, max_new_tokens=8) == write()


@pytest.mark.slow
def test_rules_that_split_the_length_or_all_of_the_batch_change_nothing(write):
    mesh = partitioning(8, model=2)
    every = ("replica", "data", "model")
    for change in {"length": "model"}, {"batch": every}:
        rules = dataclasses.replace(mesh.rules, **change)
        model, params = model_of(dataclasses.replace(mesh, rules=rules))
        generator = Generator(model, VOCABULARY, MAX_LENGTH)
        assert generator(params, PROMPTS, max_new_tokens=8) == write()
        drawn = generator(params, PROMPTS, max_new_tokens=8, sampling=HOT)
        assert drawn == write(sampling=HOT)


@pytest.mark.slow
def test_what_is_drawn_for_a_prompt_does_not_depend_on_the_others(write):
    together = write(sampling=HOT)
    assert write(sampling=HOT, batch_size=2) == together
    alone = [
        write([prompt], sampling=HOT, seeds=[place])[0]
        for place, prompt in enumerate(PROMPTS)
    ]
    assert alone == together


def test_the_same_prompt_is_gone_on_with_in_other_ways(write):
    first, second = write([[5, 6], [5, 6]], sampling=HOT)
    assert first != second


def test_each_token_of_a_text_is_drawn_anew(model_and_params):
    model, params = model_and_params
    knows_nothing = jax.tree.map(jnp.zeros_like, params)
    (written,) = Generator(model, VOCABULARY, MAX_LENGTH)(
        knows_nothing, [[]], sampling=Sampling(temperature=1.0), max_new_tokens=8
    )
    assert len(set(written)) == 8


def test_what_is_drawn_depends_on_the_seed_alone(write):
    other = dataclasses.replace(HOT, seed=1)
    assert write(sampling=HOT) == write(sampling=HOT) != write(sampling=other)


@pytest.fixture
def called(monkeypatch):
    """What the second program was called with and gave, call by call."""
    calls = []

    def programs(config):
        prefill, decode = prefill_decode.programs(config)

        def recorded(*arguments):
            done = decode(*arguments)
            calls.append((decode, arguments, done))
            return done

        return prefill_decode.Programs(prefill, recorded)

    monkeypatch.setattr("salt_jax.generation.generator.programs", programs)
    return calls


def test_shapes_of_one_size_and_all_steps_are_compiled_once(called):
    model, params = model_of(partitioning(8, model=2))
    write = functools.partial(Generator(model, VOCABULARY, MAX_LENGTH), params)
    own, seeded = (Sampling(temperature=2.0, seed=seed) for seed in (0, 5))
    write([[5], [6, 7]], max_new_tokens=13, sampling=own)
    write([[4] * 20, []], max_new_tokens=9, sampling=own, seeds=[9, 4])
    write([[5]], max_new_tokens=16, sampling=seeded, stop=["zzz"])
    programs = {decode for decode, _, _ in called}
    assert len(called) >= 4 and [x._cache_size() for x in programs] == [1]


def test_every_host_has_all_that_is_written(called):
    # A host cannot read what only others have.
    model, params = model_of(partitioning(8, model=2))
    Generator(model, VOCABULARY, MAX_LENGTH)(params, PROMPTS, max_new_tokens=8)
    _, _, (_, written) = called[-1]
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(written))


def test_the_cache_is_written_in_place(write, called):
    write(max_new_tokens=16, stop=["zzz"])
    caches = [arguments[1] for _, arguments, _ in called]
    assert len(caches) == 2
    assert all(x.is_deleted() for x in jax.tree.leaves(caches))


def byte_tokens(text):
    return [VOCABULARY.piece_id(f"<0x{byte:02X}>") for byte in text.encode()]


@pytest.fixture(scope="module")
def says():
    """A generator for a model that says some different tokens again and again."""
    model, params = model_of(tied_embedding=False)

    def says(tokens):
        generator = Generator(model, VOCABULARY, MAX_LENGTH)
        return generator, saying(params, tokens)

    return says


def test_a_text_ends_where_the_model_ends_it(says):
    generator, params = says([40, 50, VOCABULARY.eos_id, 60])
    prompts = [[], [40], [VOCABULARY.eos_id]]
    written = generator(params, prompts, max_new_tokens=16)
    assert written == [[40, 50], [50], [60, 40, 50]]


class _ManyEnds(SentencePieceCodec):
    @property
    def end_ids(self):
        return (self.eos_id, 70, 71)


def test_a_text_ends_with_any_token_that_ends_one(model_and_params, called):
    model, params = model_and_params
    codec = _ManyEnds(VOCABULARY.codec.processor)
    vocabulary = dataclasses.replace(VOCABULARY, codec=codec)
    generator = Generator(model, vocabulary, MAX_LENGTH)
    params = saying(params, [40, 70, 50, 60, 71, 80, VOCABULARY.eos_id])
    written = generator(params, [[], [70], [71], [60]], max_new_tokens=16)
    assert written == [[40], [50, 60], [80], []]
    # No more is computed than the longest has, and its end.
    assert int(called[-1][2][1].count) == 3
    assert "".join(generator.stream(params, [70], max_new_tokens=16)) == (
        VOCABULARY.decode([50, 60])
    )


@pytest.mark.parametrize("count", [1, 2, 9, 10, 16])
def test_a_model_that_never_ends_writes_as_many_tokens_as_asked(says, count):
    generator, params = says([40, 50])
    for stop in [], ["never"]:
        (written,) = generator(params, [[]], max_new_tokens=count, stop=stop)
        assert written == ([40, 50] * MAX_LENGTH)[:count]


def test_a_text_ends_before_a_stop_string(says):
    # Pieces of which one has the end of a text and the beginning of a stop string.
    pieces = ["one", " two", " th", "ree", " four"]
    tokens = [token for piece in pieces for token in VOCABULARY.encode(piece)]
    assert len(set(tokens)) == len(tokens)
    generator, params = says(tokens)
    options = {"max_new_tokens": 16, "stop": ["hree", "wo t"]}
    assert generator.texts(params, [[]], **options) == ["one t"]
    (kept,) = generator(params, [[]], **options)
    assert VOCABULARY.decode(kept) in ("one", "one t")


@pytest.mark.parametrize("options", [{}, {"stop": ["never"]}])
def test_no_more_is_computed_when_every_text_has_ended(says, options, called):
    generator, params = says([40, 50, 60, VOCABULARY.eos_id])
    # Of six rows five are texts, and the first of these ends with its first token. The
    # sixth would end with its fourth.
    prompts = [[60], [50], [50], [50], [50]]
    generator(params, prompts, max_new_tokens=16, **options)
    assert [int(written.count) for _, _, (_, written) in called] == [2]


def test_nothing_is_computed_for_a_text_that_has_stopped(says, called):
    generator, params = says([*byte_tokens("abcdefghijklmno"), VOCABULARY.eos_id])
    prompts = [byte_tokens("c"), byte_tokens("e")]
    written = generator.texts(params, prompts, max_new_tokens=16, stop=["e"])
    assert written == ["d", "fghijklmno"]
    # The second ends with its eleventh token; the first would with its thirteenth.
    assert int(called[-1][2][1].count) == 11


def test_rows_that_have_stopped_wait_for_the_others(says):
    generator, params = says(byte_tokens("abcdefghijklmnopqrst"))
    prompts = [byte_tokens(letter) for letter in "jt"]
    written = generator.texts(params, prompts, max_new_tokens=16, stop=["p"])
    assert written == ["klmno", "abcdefghijklmno"]


@pytest.mark.parametrize("stop", [[], ["zz", "d"], ["\u2603c"], ["c\u2603"]])
def test_a_stream_is_the_text_in_pieces_of_whole_characters(says, stop):
    # Each token once: three snowmen of a kind would need one token thrice.
    generator, params = says(byte_tokens("ab\u2603cd"))
    options = {"max_new_tokens": 16, "stop": stop}
    pieces = list(generator.stream(params, [], **options))
    assert "".join(pieces) == generator.texts(params, [[]], **options)[0]
    assert all(pieces) and "\ufffd" not in "".join(pieces[:-1])
    assert not any(x in "".join(pieces) for x in stop)


def test_a_stream_ends_soon_after_its_stop_string(says, called):
    generator, params = says(byte_tokens("abcdefghijklmno"))
    pieces = generator.stream(params, [], max_new_tokens=16, stop=["d"])
    assert "".join(pieces) == "abc"
    assert int(called[-1][2][1].count) == 5


def test_a_stream_is_drawn_as_a_batch_is(model_and_params):
    model, params = model_and_params
    generator = Generator(model, VOCABULARY, MAX_LENGTH)
    options = {"max_new_tokens": 8, "sampling": HOT}
    whole = generator.texts(params, PROMPTS, **options)
    for seed, (prompt, text) in enumerate(zip(PROMPTS, whole, strict=True)):
        pieces = generator.stream(params, prompt, seed=seed, **options)
        assert "".join(pieces).replace("\ufffd", "") == text.replace("\ufffd", "")


def test_embeddings_of_no_token_are_never_written():
    model, params = small_model(vocab_size=VOCABULARY.size + 8, tied_embedding=False)
    params = saying(params, [VOCABULARY.size + 3])
    (written,) = Generator(model, VOCABULARY, MAX_LENGTH)(
        params, [[]], max_new_tokens=8
    )
    assert max(written) < VOCABULARY.size


def test_no_prompts_have_no_texts(write):
    assert write([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompts": [[5], [5] * 33]},
            "Prompt 2 has 33 tokens, and with max_new_tokens=8 exceeds the 40 that the "
            "model reads: shorten it, or lower max_new_tokens.",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is not positive."),
        ({"batch_size": 0}, "batch_size=0 is not positive."),
        ({"prompts": [[5, 4096]]}, "Prompt 1 has tokens from 5 to 4096, and the"),
        ({"prompts": [[-1]]}, "Prompt 1 has tokens from -1 to -1, and the vocabulary"),
        ({"stop": [""]}, "is not a list of nonempty strings"),
        ({"prompts": [[5]], "seeds": [1, 2]}, "1 prompts have 2 seeds."),
        ({"prompts": [[5]], "seeds": [-1]}, "The seed -1 is not from 0 to"),
    ],
)
def test_what_cannot_be_written_is_refused(write, options, message):
    with pytest.raises(ValueError, match=message):
        write(**options)


def test_a_prompt_that_just_fits_is_gone_on_with(write):
    (written,) = write([[5] * (MAX_LENGTH - 8)])
    assert len(written) == 8
