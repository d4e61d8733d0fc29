"""Vocabularies of the tokenizers library, small ones of the kinds that models have."""

import base64
import functools
import json
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from salt_jax.data.vocabulary import Vocabulary
from tests import small_tokenizers

KINDS = {
    kind.__name__: kind
    for kind in (
        small_tokenizers.byte_level,
        small_tokenizers.composing,
        small_tokenizers.spaces_written,
        small_tokenizers.space_first,
    )
}
ROLES = {"begin_id": 0, "eos_id": 1, "pad_id": 2}
BEGIN, END, PAD = small_tokenizers.SPECIAL
TEXT = "the cat  sat\n\n\ton 42 logs: \u2603 \u00fc \U0001f600\0 <0x41>"
any_text = st.text(st.characters(codec="utf-8") | st.sampled_from("\u2581\0 \n\ufffd"))


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def tokenizer(request):
    return request.param()


@pytest.fixture(scope="module")
def vocabulary(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    return Vocabulary.open(small_tokenizers.write(folder / "v.json", tokenizer))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("byte_level") / "vocabulary.json"
    return small_tokenizers.write(path, small_tokenizers.byte_level())


@pytest.fixture(scope="module")
def byte_level(path):
    return Vocabulary.open(path)


@settings(max_examples=100, deadline=None)
@given(any_text)
def test_a_text_has_the_tokens_that_the_library_gives_it(tokenizer, vocabulary, text):
    theirs = tokenizer.encode(text, add_special_tokens=False)
    assert vocabulary.encode(text) == theirs.ids


def test_a_text_of_known_letters_comes_back(vocabulary):
    assert vocabulary.decode(np.array(vocabulary.encode(TEXT))) == TEXT


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_bytes_as_letters_give_every_text_back(byte_level, text):
    tokens = byte_level.encode(text)
    assert byte_level.decode(tokens) == text
    assert byte_level.byte_lengths()[tokens].sum() == len(text.encode())


def test_the_bytes_of_tokens_are_those_of_a_text_and_of_a_space_put_before(vocabulary):
    lengths = vocabulary.byte_lengths()[vocabulary.encode(TEXT)]
    has_space_first = vocabulary.decode(vocabulary.encode("a")[:1]) == ""
    assert lengths.sum() == len(TEXT.encode()) + has_space_first


def test_added_tokens_that_are_not_special_are_decoded_as_others_are(tmp_path):
    tokenizer = small_tokenizers.spaces_written()
    runs = ["\u2581" * 2, "\u2581" * 31, "\u2603\n"]
    tokenizer.add_tokens(runs)
    vocabulary = Vocabulary.open(small_tokenizers.write(tmp_path / "v.json", tokenizer))
    ids = [vocabulary.piece_id(run) for run in runs]
    assert vocabulary.byte_lengths()[ids].tolist() == [2, 31, 4]
    assert vocabulary.decode(ids) == " " * 33 + "\u2603\n"


@pytest.mark.parametrize(
    ("kind", "is_lossless"),
    [
        ("byte_level", True),
        ("composing", False),
        ("spaces_written", False),
        ("space_first", False),
    ],
)
def test_what_changes_texts_is_known(kind, is_lossless, tmp_path):
    path = small_tokenizers.write(tmp_path / "v.json", KINDS[kind]())
    assert Vocabulary.open(path).is_lossless == is_lossless


def test_text_that_names_a_special_token_is_text(vocabulary):
    text = f"the end{END}{BEGIN}"
    tokens = vocabulary.encode(text)
    assert not {vocabulary.begin_id, vocabulary.eos_id} & set(tokens)
    assert vocabulary.decode(tokens) == text


def test_beginning_end_and_padding_have_no_text_and_no_bytes(vocabulary):
    roles = [vocabulary.begin_id, vocabulary.eos_id, vocabulary.pad_id]
    assert roles == [0, 1, 2]
    assert vocabulary.decode([0, *vocabulary.encode("the"), 1, 2]) == "the"
    assert not vocabulary.byte_lengths()[roles].any()


def test_other_ends_have_no_text_and_no_bytes(tmp_path):
    path = tmp_path / "v.json"
    small_tokenizers.write(path, small_tokenizers.byte_level(), other_eos_ids=[70, 71])
    vocabulary = Vocabulary.open(path)
    assert vocabulary.end_ids == (1, 70, 71)
    assert vocabulary.decode([*vocabulary.encode("the"), 70]) == "the"
    assert not vocabulary.byte_lengths()[[70, 71]].any()


def test_a_vocabulary_that_says_no_more_has_one_end(vocabulary):
    assert vocabulary.end_ids == (vocabulary.eos_id,)


def test_what_begins_a_text_has_no_text_even_if_it_is_no_special_token(tmp_path):
    path = tmp_path / "v.json"
    small_tokenizers.write(path, small_tokenizers.byte_level(), begin_id=70)
    vocabulary = Vocabulary.open(path)
    assert vocabulary.decode([70, *vocabulary.encode("the")]) == "the"


def test_tokens_beyond_the_vocabulary_have_no_text(byte_level):
    tokens = [*byte_level.encode("the"), byte_level.size, byte_level.size + 7]
    assert byte_level.decode(tokens) == "the"


def test_a_file_that_cuts_and_pads_texts_is_given_them_whole(tmp_path):
    tokenizer = small_tokenizers.byte_level()
    text = "the cat sat on the mat" * 9
    whole = tokenizer.encode(text).ids
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=200)
    path = small_tokenizers.write(tmp_path / "v.json", tokenizer)
    assert Vocabulary.open(path).encode(text) == whole


def test_what_a_file_puts_before_a_text_is_left_out(tmp_path):
    tokenizer = small_tokenizers.byte_level()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    path = small_tokenizers.write(tmp_path / "v.json", tokenizer)
    assert 0 not in Vocabulary.open(path).encode("the cat")


def test_control_pieces_are_added_at_the_end_and_nothing_else_moves(
    vocabulary, tmp_path
):
    path = tmp_path / "more.json"
    names = [f"<extra_id_{index}>" for index in range(20)]
    path.write_bytes(vocabulary.add_control_pieces(names))
    extended = Vocabulary.open(path)
    ids = [extended.piece_id(name) for name in names]
    assert ids == list(range(vocabulary.size, extended.size))
    assert not extended.byte_lengths()[ids].any()
    text = f"{TEXT}{names[3]}"
    assert extended.encode(text) == vocabulary.encode(text)
    assert extended.decode([ids[2], *extended.encode(text)]) == text


def test_a_piece_that_the_vocabulary_lacks_is_refused_by_name(byte_level):
    assert byte_level.piece_id(END) == 1
    with pytest.raises(ValueError, match=r"has no piece '<extra_id_0>'"):
        byte_level.piece_id("<extra_id_0>")


def test_another_process_is_sent_the_path(byte_level):
    assert pickle.loads(pickle.dumps(byte_level)) == byte_level
    assert len(pickle.dumps(byte_level)) < 1000


def changed(path, tmp_path, **changes):
    record = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in record.items() if value is not ...}
    (tmp_path / "changed.json").write_text(json.dumps(kept))
    return tmp_path / "changed.json"


def test_who_begins_and_ends_texts_is_part_of_the_fingerprint(path, tmp_path):
    roles = {"begin_id": 2, "eos_id": 1, "pad_id": 2}
    other = Vocabulary.open(changed(path, tmp_path, salt_jax=roles))
    assert other.fingerprint != Vocabulary.open(path).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"salt_jax": ...}, "does not say .* Make it with `.* import`"),
        ({"salt_jax": {"eos_id": 1}}, "should have begin_id, eos_id, pad_id"),
        ({"salt_jax": {"begin_id": 0, "eos_id": 999, "pad_id": 0}}, "eos_id is 999"),
        ({"salt_jax": {"begin_id": 0, "eos_id": -1, "pad_id": 0}}, "eos_id is -1"),
        ({"salt_jax": {"begin_id": "a", "eos_id": 1, "pad_id": 0}}, "begin_id is 'a'"),
        ({"salt_jax": ROLES | {"other_eos_ids": 2}}, "other_eos_ids is 2, .* no list"),
        ({"salt_jax": ROLES | {"other_eos_ids": [2, 999]}}, "other_eos_ids is 999"),
        ({"salt_jax": ROLES | {"ends": [2]}}, "should have begin_id, eos_id, pad_id"),
        ({"model": ...}, "has no 'model'"),
        ({"model": {"type": "Other"}}, r"not a tokenizer.json that tokenizers \d"),
    ],
)
def test_a_file_that_does_not_say_all_is_refused_in_one_line(
    changes, message, path, tmp_path
):
    with pytest.raises(ValueError, match=message) as refused:
        Vocabulary.open(changed(path, tmp_path, **changes))
    assert "changed.json" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("contents", ["{", "[]", "\x80"])
def test_a_file_of_something_else_is_refused_by_name(contents, tmp_path):
    (tmp_path / "notes.json").write_text(contents, encoding="latin-1")
    with pytest.raises(ValueError, match=r"notes\.json is not (a )?JSON"):
        Vocabulary.open(tmp_path / "notes.json")


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "a"},
    ],
)
def test_bytes_are_not_guessed_of_a_decoder_that_is_not_known(decoder, path, tmp_path):
    vocabulary = Vocabulary.open(changed(path, tmp_path, decoder=decoder))
    with pytest.raises(ValueError, match="How many bytes tokens stand for"):
        vocabulary.byte_lengths()


def as_record(tokenizer):
    return json.loads(tokenizer.to_str())


def opened(record, path):
    path.write_text(json.dumps(record | {"salt_jax": ROLES}))
    return Vocabulary.open(path)


def test_the_name_of_a_control_token_is_text_even_if_it_is_not_special(tmp_path):
    record = as_record(small_tokenizers.byte_level())
    for token in record["added_tokens"]:
        token["special"] = False
    vocabulary = opened(record, tmp_path / "v.json")
    said = "a tag <|end|> in a page"
    tokens = vocabulary.encode(said)
    assert not {0, 1, 2} & set(tokens)
    assert vocabulary.decode(tokens) == said


@pytest.mark.parametrize("text", ["a<|end|>b", "<|end|>", "<|e<|end|>nd|>", "<|pad|>a"])
def test_the_name_of_a_control_token_is_text_even_if_the_model_has_it_as_a_word(
    text, tmp_path
):
    letters = [(letter, -3.0) for letter in "abcdefghilnopqrstu <>|"]
    words = [(name, 0.0) for name in small_tokenizers.SPECIAL]
    tokenizer = Tokenizer(models.Unigram([*words, *letters], 0, False))
    tokenizer.add_special_tokens(small_tokenizers.SPECIAL)
    tokenizer.decoder = decoders.Fuse()
    vocabulary = opened(as_record(tokenizer), tmp_path / "v.json")
    tokens = vocabulary.encode(text)
    assert not {0, 1, 2} & set(tokens)
    assert vocabulary.decode(tokens) == text


GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BEYOND = {
    "a normalizer that doubles": {
        "normalizer": {"type": "Sequence", "normalizers": [GROWS] * 40}
    },
    "a decoder that doubles": {
        "decoder": {"type": "Sequence", "decoders": [GROWS] * 40}
    },
    "a long replacement": {"normalizer": GROWS | {"content": "a" * 1_000}},
    "a regular expression for nothing": {
        "normalizer": GROWS | {"pattern": {"Regex": "b*"}, "content": "a" * 100}
    },
    "a table of long texts": {
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(bytes(4) + b"a" * 999).decode(),
        }
    },
    "a token of four billion": {
        "added_tokens": [
            {"id": 4_294_967_295, "content": "<e>", "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        ]
    },
    "what is nested too deeply": {
        "normalizer": functools.reduce(
            lambda inner, _: {"type": "Sequence", "normalizers": [inner]},
            range(300),
            {"type": "NFC"},
        )
    },
}


@pytest.mark.parametrize("change", BEYOND.values(), ids=BEYOND)
def test_a_tokenizer_that_would_take_all_memory_is_refused_by_its_file(
    change, tmp_path
):
    record = as_record(small_tokenizers.byte_level()) | change
    with pytest.raises(ValueError, match=r"v.json is not a tokenizer.json"):
        opened(record, tmp_path / "v.json")


def test_tokens_that_depend_on_chance_are_refused(tmp_path):
    record = as_record(small_tokenizers.byte_level())
    record["model"]["dropout"] = 0.1
    with pytest.raises(ValueError, match="v.json .* dropout is 0.1"):
        opened(record, tmp_path / "v.json")


def test_a_padding_of_terabytes_is_not_applied(tmp_path):
    record = as_record(small_tokenizers.byte_level())
    record["padding"] = {
        "strategy": {"Fixed": 1 << 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    assert len(opened(record, tmp_path / "v.json").encode("a")) == 1


def test_a_pattern_that_takes_for_ever_ends_in_one_line(tmp_path, capfd):
    record = as_record(small_tokenizers.byte_level())
    record["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(x+x+)+y"},
        "behavior": "Isolated",
        "invert": False,
    }
    vocabulary = opened(record, tmp_path / "v.json")
    with pytest.raises(ValueError, match="cannot encode 'xxx.*', of 32 letters"):
        vocabulary.encode("x" * 32)
    capfd.readouterr()  # The library's own trace.


def test_half_of_a_surrogate_pair_is_refused(byte_level):
    with pytest.raises(ValueError, match=r"cannot encode 'half .+ud83d'"):
        byte_level.encode("half \ud83d")
