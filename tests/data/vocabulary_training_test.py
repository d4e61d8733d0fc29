import dataclasses
import json

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.document import Fields
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.data.vocabulary_training import (
    VocabularyTraining,
    sample,
    sentinels,
    write_vocabulary,
)
from tests.data.conftest import write_zst

CONTROL = (*sentinels(4), "[R]")
TRAINING = VocabularyTraining(size=310, control_pieces=CONTROL)


def quiet(line):
    del line


def parts_of(folder, texts):
    write_zst(folder / "train.jsonl.zst", [json.dumps({"text": x}) for x in texts])
    return corpus.split_parts(str(folder), "train", Fields(default_domain="any"))


TEXTS = [
    f"the cat {i}\n\tsat on the mat, {i} times \u2603\n\nand so on: \0 \u2581"
    for i in range(60)
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return parts_of(tmp_path_factory.mktemp("corpus"), TEXTS)


@pytest.fixture(scope="module")
def vocabulary(parts, tmp_path_factory):
    path = epath.Path(tmp_path_factory.mktemp("vocabulary")) / "new" / "x.model"
    write_vocabulary(path, TRAINING.run(parts, quiet))
    return Vocabulary.open(path)


def test_the_size_counts_the_control_pieces_which_are_the_last_tokens(vocabulary):
    assert vocabulary.size == 310
    assert [vocabulary.piece_id(name) for name in CONTROL] == list(range(305, 310))


def test_padding_ends_and_the_beginning_are_where_seqio_expects_them(vocabulary):
    found = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.begin_id)
    assert found == (0, 1, 0)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\u2581\0 \n\ufffd")))
def test_any_text_round_trips(vocabulary, text):
    assert vocabulary.is_lossless
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_no_token_has_two_digits_or_spans_a_line_break(vocabulary):
    pieces = map(vocabulary.codec.processor.id_to_piece, range(260, 305))
    bad = [x for x in pieces if len(x) > 1 and (set("0123456789\n") & set(x))]
    assert not bad


def test_the_name_of_a_sentinel_in_a_text_is_text(vocabulary):
    assert vocabulary.piece_id("[R]") not in vocabulary.encode("a [R] b")


def test_the_file_depends_on_the_corpus_and_the_seed_alone(parts):
    sampled = dataclasses.replace(TRAINING, size=296, max_lines=40)
    contents = sampled.run(parts, quiet)
    assert sampled.run(parts, quiet) == contents
    assert dataclasses.replace(sampled, seed=1).run(parts, quiet) != contents


def test_a_sample_has_lines_from_the_whole_corpus():
    kept = sample(map(str, range(1000)), 50, seed=0)
    numbers = sorted(map(int, kept))
    assert len(set(numbers)) == 50
    assert numbers[0] < 100 and numbers[-1] >= 900


def test_a_size_that_the_text_cannot_fill_is_refused_with_the_largest_that_it_can(
    parts,
):
    too_large = dataclasses.replace(TRAINING, size=256_000)
    with pytest.raises(ValueError, match=r"180 lines .* 326 tokens, .*size=256,000"):
        too_large.run(parts, quiet)
    assert dataclasses.replace(TRAINING, size=326).run(parts, quiet)


def test_a_size_without_room_for_the_characters_is_refused_with_the_smallest(parts):
    with pytest.raises(ValueError, match=r"290 tokens, got size=280"):
        dataclasses.replace(TRAINING, size=280).run(parts, quiet)
    assert dataclasses.replace(TRAINING, size=290).run(parts, quiet)


def test_a_corpus_without_text_is_refused_with_its_first_bad_record(tmp_path):
    write_zst(tmp_path / "train.jsonl.zst", [json.dumps({"content": "x"})] * 3)
    parts = corpus.split_parts(str(tmp_path), "train", Fields(default_domain="any"))
    with pytest.raises(ValueError, match=r"3 records.*train\.jsonl\.zst:1: no 'text'"):
        TRAINING.run(parts, quiet)


def test_a_line_of_a_megabyte_is_read(tmp_path):
    parts = parts_of(tmp_path, [" ".join(f"word{i % 97}" for i in range(150_000))])
    path = epath.Path(tmp_path) / "x.model"
    write_vocabulary(path, dataclasses.replace(TRAINING, size=288).run(parts, quiet))
    assert Vocabulary.open(path).codec.find("\u2581word") is not None


def test_a_vocabulary_is_never_overwritten(vocabulary):
    with pytest.raises(ValueError, match=r"x\.model exists"):
        write_vocabulary(vocabulary.path, b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be .* got 0"),
        ({"max_lines": 0}, "max_lines must be .* got 0"),
        ({"control_pieces": ("[R]", "[R]")}, r"control_pieces must differ.*\[R\]"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TRAINING, **change)
