import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zstandard

from salt_jax.batch import Batch
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.program import Program
from salt_jax.sample import continuations, samples
from tests import runs
from tests.examples import partitioning, saying, small_model

PROMPTS = np.array([[5, 9, 33, 7], [60, 3, 3, 41], [8, 8, 8, 8]], np.int32)
NUM_TOKENS = 4


def greedy(model, params, prompts, **changes):
    options = {"num_tokens": NUM_TOKENS, "temperature": 0.0} | changes
    return continuations(model, params, prompts, **options)


def read_exactly(model, params, tokens_BL):
    """Reads rows that begin a document and end where they end."""
    shape = tokens_BL.shape
    ones = jnp.ones(shape, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    batch = Batch(tokens_BL, jnp.roll(tokens_BL, -1, 1), 1.0 * ones, ones, positions)
    return jax.jit(lambda *args: model.apply(*args).logits())(params, batch)


def test_a_greedy_continuation_is_the_likeliest_token_step_by_step():
    model, params = small_model()
    texts = np.pad(PROMPTS, ((0, 0), (1, 0)))  # What begins a document is read first.
    for _ in range(NUM_TOKENS):
        logits = read_exactly(model, params, jnp.asarray(texts))
        next_token = np.argmax(logits[:, -1], axis=-1)
        texts = np.concatenate([texts, next_token[:, None]], axis=1)
    written = greedy(model, params, PROMPTS)
    np.testing.assert_array_equal(written, texts[:, 1 + PROMPTS.shape[1] :])
    assert len(np.unique(written)) > 2


def test_a_mesh_writes_what_one_device_writes():
    # Three rows do not divide over the eight devices.
    alone = greedy(*small_model(), PROMPTS)
    together = greedy(*small_model(partitioning(8, model=2)), PROMPTS)
    np.testing.assert_array_equal(together, alone)


def test_a_row_does_not_depend_on_the_others():
    model, params = small_model()
    written = greedy(model, params, PROMPTS)
    np.testing.assert_array_equal(greedy(model, params, PROMPTS[1:2]), written[1:2])


def test_sampling_depends_on_the_seed_alone_and_is_not_greedy():
    model, params = small_model()
    sampled = [
        greedy(model, params, PROMPTS, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(sampled[0], sampled[1])
    assert (sampled[0] != sampled[2]).any()
    assert (sampled[0] != greedy(model, params, PROMPTS)).any()


def test_a_low_temperature_takes_the_likeliest():
    model, params = small_model()
    cold = greedy(model, params, PROMPTS, temperature=1e-5)
    np.testing.assert_array_equal(cold, greedy(model, params, PROMPTS))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """An experiment on documents of which some are long enough to go on with."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    words = ["the", "small", "model", "helps", "a", "large", "one", "first"]

    def document(domain):
        length = 3 if domain == "Haiku" else 120
        text = " ".join(rng.choice(words, length))
        return json.dumps({"text": text, "meta": {"pile_set_name": domain}})

    names = ["Prose", "Verse", "Haiku", "Code", "Mail", "Law"] * 40
    packed = zstandard.compress("\n".join(map(document, names)).encode())
    for name in ("train/00", "val", "test"):
        path = folder / "corpus" / f"{name}.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed)
    prepare(
        Preparation(
            corpus=str(folder / "corpus"),
            vocabulary=runs.VOCABULARY,
            output=str(folder / "data"),
            seq_len=64,
        )
    )
    model = dataclasses.replace(runs.STUDENT, tied_embedding=False)
    run = runs.experiment(folder, model=model, seq_len=64)
    return Program.on(run)


def said(program, tokens):
    """What `samples` gives for a model that says `tokens`."""
    params = saying(program.fresh_state().params, tokens)
    return samples(program, params, program.experiment.validation.data)


def test_a_continuation_is_cut_where_the_model_ends_its_document(program):
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    first, second, last = 4001, 4002, 4003  # Not in the prompts.
    written = said(program, [first, second, vocabulary.eos_id, last])
    expected = vocabulary.decode([first, second])
    assert [sample["continuation"] for sample in written] == [expected] * 4


def test_a_model_that_never_ends_writes_to_the_limit(program):
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    token = vocabulary.encode("the")[0]
    continuation = said(program, [token])[0]["continuation"]
    assert continuation == vocabulary.decode([token] * 80)


def test_prompts_are_the_beginnings_of_long_documents_of_different_domains(program):
    written = said(program, [7])
    domains = [sample["domain"] for sample in written]
    assert len(set(domains)) == len(domains) == 4 and "Haiku" not in domains
    data = program.experiment.validation.data
    corpus = pathlib.Path(data.path).parent / "corpus" / "val.jsonl.zst"
    lines = zstandard.decompress(corpus.read_bytes()).decode().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    for sample in written:
        assert any(text.startswith(sample["prompt"]) for text in texts)


def test_text_without_a_long_document_gives_no_samples(program, tmp_path):
    runs.make_files(tmp_path)
    short = Program.on(runs.experiment(tmp_path))
    assert samples(short, None, short.experiment.validation.data) == []
