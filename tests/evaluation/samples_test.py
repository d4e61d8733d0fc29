import dataclasses
import json
import pathlib

import numpy as np
import pytest
import zstandard

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.samples import samples
from salt_jax.training.program import Program
from tests import runs
from tests.examples import saying

SEQ_LEN = 64


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
            seq_len=SEQ_LEN,
        )
    )
    model = dataclasses.replace(runs.STUDENT, tied_embedding=False)
    run = runs.experiment(folder, model=model, seq_len=SEQ_LEN)
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


def test_a_model_that_never_ends_writes_up_to_the_length_it_has_learnt(program):
    vocabulary = Vocabulary.open(runs.VOCABULARY)
    token = vocabulary.encode("the")[0]
    sample = said(program, [token])[0]
    assert sample["continuation"] == vocabulary.decode([token] * (SEQ_LEN - 48))


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
