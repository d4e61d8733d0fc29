import dataclasses
import json
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.corpus import Fields
from salt_jax.data.preparing.prepare import prepare
from salt_jax.data.vocabulary import Vocabulary
from tests.data.conftest import VOCABULARY

PATH = str(Vocabulary.open(VOCABULARY).path)
FILES = {"0.txt": ["a b", "", "\u2603 c"], "1.txt": ["d", "e f g"]}
TEXTS = [text for lines in FILES.values() for text in lines]
TEXT = {"text": seqio.Feature(seqio.PassThroughVocabulary(1), dtype=tf.string, rank=0)}
# A user's module: names tasks when it is imported, and not before.
MODULE = """
import seqio
import tensorflow as tf

seqio.TaskRegistry.add(
    "lines",
    seqio.TextLineDataSource({{"train": {pattern!r}}}),
    preprocessors=[lambda ds: ds.map(lambda line: {{"text": line}})],
    output_features={{
        "text": seqio.Feature(seqio.PassThroughVocabulary(1), dtype=tf.string, rank=0)
    }},
    shuffle_buffer_size=None,
)
"""


@pytest.fixture(autouse=True)
def _registry():
    """Takes back what a test registers, and nothing of other tests."""
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
    before = [set(registry.names()) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry.names()) - names:
            registry.remove(name)


@pytest.fixture
def folder(tmp_path):
    for name, lines in FILES.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.fixture
def add(folder):
    """Registers a task that makes what `preprocessors` make of lines."""

    def add(name, *preprocessors, features=TEXT, files="*.txt"):
        seqio.TaskRegistry.add(
            name,
            seqio.TextLineDataSource({"train": str(folder / files)}),
            preprocessors=list(preprocessors),
            output_features=features,
            shuffle_buffer_size=None,
        )

    return add


@pytest.fixture
def module(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    pattern = str(folder / "*.txt")
    (folder / "their_tasks.py").write_text(MODULE.format(pattern=pattern))
    yield "their_tasks"
    sys.modules.pop("their_tasks", None)


def as_feature(name):
    return lambda ds: ds.map(lambda line: {name: line})


def encode(vocabulary, **options):
    return lambda ds: ds.map(
        lambda x: {"targets": vocabulary.encode_tf(x["text"])} | options
    )


def ids(vocabulary=None, **options):
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(PATH)
    return {"targets": seqio.Feature(vocabulary, **options)}


def documents(parts):
    return [
        found
        for part in parts
        for block in part.blocks()
        for _, found in block.documents()
    ]


def read(name, fields=Fields(), **options):
    parts = corpus.split_parts(
        f"seqio:{name}", "train", fields, vocabulary=VOCABULARY, **options
    )
    return documents(parts)


def test_each_file_of_a_task_is_a_part_in_its_own_order(add):
    add("lines", as_feature("text"))
    parts = corpus.split_parts("seqio:lines", "train")
    assert [part.name for part in parts] == [
        "seqio:lines train shard 0",
        "seqio:lines train shard 1",
    ]
    found = [[document.text for document in documents([part])] for part in parts]
    assert found == list(FILES.values())


@pytest.mark.parametrize("feature", ["text", "targets"])
def test_text_is_read_where_tasks_that_do_not_tokenize_have_it(feature, add):
    add("lines", as_feature(feature), features={feature: TEXT["text"]})
    found = read("lines")
    assert [document.text for document in found] == TEXTS
    assert all(document.tokens is None for document in found)


def test_the_domain_is_a_feature_or_the_default_or_the_task(add):
    def with_source(ds):
        return ds.map(lambda line: {"text": line, "meta": {"source": "Books"}})

    def domains(**fields):
        return {document.domain for document in read("lines", Fields(**fields))}

    add("lines", with_source)
    assert domains(domain="meta.source", default_domain="Web") == {"Books"}
    assert domains(domain="source", default_domain="Web") == {"Web"}
    assert domains() == {"lines"}


def test_a_mixture_is_its_tasks_each_once_and_each_a_domain(add):
    add("second", as_feature("text"), files="1.txt")
    add("first", as_feature("text"), files="0.txt")
    seqio.MixtureRegistry.add("both", [("second", 0.9), ("first", 0.1)])
    assert [(document.text, document.domain) for document in read("both")] == [
        *[(text, "first") for text in FILES["0.txt"]],
        *[(text, "second") for text in FILES["1.txt"]],
    ]


@pytest.mark.parametrize("ended", [False, True])
def test_tokens_of_our_vocabulary_are_taken_as_they_are(ended, add, vocabulary):
    append = [seqio.preprocessors.append_eos] if ended else []
    steps = [as_feature("text"), encode(seqio.SentencePieceVocabulary(PATH)), *append]
    add("ids", *steps, features=ids())
    found = read("ids")
    assert [document.text for document in found] == TEXTS
    for document in found:
        np.testing.assert_array_equal(document.tokens, vocabulary.encode(document.text))
        assert document.num_bytes == len(document.text.encode())


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.open(VOCABULARY)


def test_tokens_are_not_made_again_from_their_text(add, vocabulary):
    # No tokenizer spells these letters one by one.
    spelled = [vocabulary.piece_id(f"<0x{byte:02X}>") for byte in b"the"]
    add(
        "ids",
        lambda ds: ds.map(lambda _: {"targets": tf.constant(spelled)}).take(1),
        features=ids(),
    )
    found = read("ids")[0]
    assert (found.text, found.tokens.tolist()) == ("the", spelled)
    assert vocabulary.encode("the") != spelled


def test_tokens_that_the_vocabulary_does_not_have_are_a_bad_record(add, vocabulary):
    tokens = [5, vocabulary.size]
    add(
        "ids",
        lambda ds: ds.map(lambda _: {"targets": tf.constant(tokens)}),
        features=ids(),
    )
    assert set(read("ids")) == {"tokens 5 to 4096, and the vocabulary has 0 to 4095"}


def refusals():
    """Returns what is said of a task: its preprocessors, and its features."""
    ours = seqio.SentencePieceVocabulary(PATH)
    theirs = seqio.SentencePieceVocabulary(PATH.replace("4k", "4k_ul2"))
    text, body = as_feature("text"), as_feature("body")
    tokenized = text, encode(seqio.ByteVocabulary())
    floats = (lambda ds: ds.map(lambda _: {"targets": tf.constant([0.5])}),)
    with_inputs = ids() | {"inputs": seqio.Feature(ours)}
    wanted = "not of embedded:tokenizer/spm_4k.model"
    return {
        f"tokens of ByteVocabulary, {wanted}": (tokenized, ids(seqio.ByteVocabulary())),
        f"spm_4k_ul2.model, {wanted}": ((text, encode(theirs)), ids(theirs)),
        "tokens of 'inputs' and of 'targets'": (
            (text, encode(ours, inputs=[1])),
            with_inputs,
        ),
        "'targets' of .* is float32 of shape \\(1,\\), not one text": (floats, {}),
        "neither 'text' nor 'targets', but \\['body'\\]": ((body,), {}),
    }


@pytest.mark.parametrize("message", refusals())
def test_examples_that_are_no_documents_are_refused(message, add):
    steps, features = refusals()[message]
    add("lines", *steps, features=features)
    with pytest.raises(ValueError, match=message):
        corpus.split_parts("seqio:lines", "train", vocabulary=VOCABULARY)


@pytest.mark.parametrize("cached", [False, True])
def test_preprocessors_that_draw_draw_the_same_each_time(cached, add):
    @seqio.map_over_dataset(num_seeds=1)
    def with_number(line, seed):
        number = tf.random.stateless_uniform([], seed, 0, 1_000_000, tf.int32)
        return {"text": tf.strings.join([line, tf.strings.as_string(number)])}

    # What stands before the placeholder is prepared apart from what is behind it.
    placeholder = [seqio.CacheDatasetPlaceholder()] if cached else []
    add("drawn", with_number, *placeholder)
    first, second = read("drawn"), read("drawn")
    assert first == second
    assert len({document.text for document in first}) == len(TEXTS)


def test_examples_are_numbered_through_all_blocks(add, folder):
    (folder / "many.txt").write_text("".join(f"{i}\n" for i in range(1, 201)))
    add("many", as_feature("text"), files="many.txt")
    (part,) = corpus.split_parts("seqio:many", "train")
    numbers = {n: int(x.text) for block in part.blocks() for n, x in block.documents()}
    assert numbers == {number: number for number in range(1, 201)}


def test_a_source_that_is_a_function_is_read_without_shuffling():
    def texts(split, shuffle_files):  # It takes no seed.
        lines = tf.data.Dataset.from_tensor_slices({"text": [str(shuffle_files)]})
        return lines.repeat(2)

    source = seqio.FunctionDataSource(texts, splits=["train"])
    seqio.TaskRegistry.add(
        "made", source, preprocessors=[], output_features=TEXT, shuffle_buffer_size=9
    )
    assert [document.text for document in read("made")] == ["False", "False"]


def test_a_task_is_found_in_the_module_that_registers_it(module):
    with pytest.raises(ValueError, match=r"'lines'; registered are .*module=None"):
        read("lines")
    assert [document.text for document in read("lines", module=module)] == TEXTS


def test_a_module_that_is_not_there_is_refused():
    message = r"Cannot import module='no_such_thing': No module named"
    with pytest.raises(ValueError, match=message):
        read("lines", module="no_such_thing")


def test_a_missing_split_is_refused_with_what_is_there(add):
    add("lines", as_feature("text"))
    message = r"'lines' has no split 'val'; it has \['train'\]"
    with pytest.raises(FileNotFoundError, match=message):
        corpus.split_parts("seqio:lines", "val")


def test_files_that_are_not_there_are_refused(add):
    add("lines", as_feature("text"), files="*.nothing")
    with pytest.raises(FileNotFoundError, match=r"'lines' finds no file of its split"):
        read("lines")


def test_bytes_that_are_not_utf8_are_a_bad_record(add, folder):
    (folder / "1.txt").write_bytes(b"d\n\xff\n")
    add("lines", as_feature("text"), files="1.txt")
    first, second = read("lines")
    assert (first.text, second) == ("d", "not UTF-8")


def test_the_fingerprint_changes_with_what_the_task_makes(add, folder):
    def fingerprint(name, *steps):
        add(name, *steps)
        return corpus.split_parts(f"seqio:{name}", "train")[0].fingerprint()

    def loud(ds):
        return ds.map(lambda x: {"text": tf.strings.upper(x["text"])})

    fields = as_feature("text")
    plain = fingerprint("lines", fields)
    seqio.TaskRegistry.remove("lines")
    assert fingerprint("lines", fields) == plain
    seqio.TaskRegistry.remove("lines")
    assert fingerprint("lines", fields, loud) != plain


def test_a_task_gives_the_sequences_that_its_lines_give_as_a_corpus(
    own_preparation, module, folder, tmp_path
):
    train = tmp_path / "corpus" / "train"
    for file in train.iterdir():
        file.unlink()
    for name, lines in FILES.items():
        records = [{"text": line, "meta": {"pile_set_name": "lines"}} for line in lines]
        contents = "".join(f"{json.dumps(record)}\n" for record in records)
        (train / name.replace(".txt", ".jsonl")).write_text(contents)
    lines = dataclasses.replace(own_preparation, splits=("train",))
    task = dataclasses.replace(
        lines, corpus="seqio:lines", module=module, output=str(tmp_path / "task")
    )
    shards = [prepare(one)["train"].manifest.shards for one in (lines, task)]
    assert shards[0] == shards[1]
