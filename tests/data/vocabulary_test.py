import pathlib

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from salt_jax.data import embedded
from salt_jax.data.vocabulary import Vocabulary

EMBEDDED = "embedded:tokenizer/spm_4k.model"
TEXT = "Hello,  world\n\n\tdef f(x): return '\u2603' # \u00fc \U0001f600"


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.open(EMBEDDED)


def test_the_special_tokens_are_those_of_the_model(vocabulary):
    found = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.size)
    assert found == (0, 1, 4096)


def test_decoding_gives_back_the_text(vocabulary):
    assert vocabulary.decode(np.array(vocabulary.encode(TEXT))) == TEXT


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\u2581\0 \n\ufffd")))
def test_every_text_comes_back_whatever_characters_it_has(vocabulary, text):
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert vocabulary.byte_lengths()[tokens].sum() == len(text.encode())


LONG = {
    "words": "so it goes,  and " * 10_000,
    "no space": "\u2603ab" * 50_000,
    "nothing but space": " " * 150_000,
    "a space at the end of a piece": "x" * 65_535 + " " + "y" * 70_000,
    "what a space is written as": "\u2581" + "a \u2581b\u2581" * 30_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_text_comes_back(vocabulary, text):
    assert vocabulary.decode(vocabulary.encode_array(text)) == text


@pytest.mark.parametrize("text", [LONG["words"], "so    " * 30_000])
def test_a_long_text_of_words_has_the_tokens_that_it_would_have_whole(vocabulary, text):
    assert vocabulary.encode(text) == vocabulary.codec.processor.encode(text)


def test_ends_and_padding_have_no_text(vocabulary):
    tokens = vocabulary.encode(TEXT)
    assert vocabulary.decode([*tokens, vocabulary.eos_id, vocabulary.pad_id]) == TEXT


def test_the_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text(vocabulary):
    lengths = vocabulary.byte_lengths()
    tokens = [*vocabulary.encode(TEXT), vocabulary.eos_id]
    assert lengths[tokens].sum() == len(TEXT.encode())


def test_the_fingerprint_is_of_the_contents_and_not_of_the_place(vocabulary, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes(vocabulary.path.read_bytes())
    assert Vocabulary.open(copy).fingerprint == vocabulary.fingerprint


def test_a_missing_vocabulary_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No vocabulary at .*/none\.model"):
        Vocabulary.open(tmp_path / "none.model")


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    (tmp_path / "notes.model").write_text("not a model")
    with pytest.raises(ValueError, match=r"notes\.model is not a SentencePiece model"):
        Vocabulary.open(tmp_path / "notes.model")


def test_a_model_that_says_how_texts_begin_is_taken_at_its_word(vocabulary, tmp_path):
    assert train_model(tmp_path, bos_id=1).begin_id == 1
    assert train_model(tmp_path, bos_id=-1).begin_id == 0
    assert vocabulary.begin_id == 0  # What the padding of SeqIO is.


def test_a_model_without_padding_pads_with_what_begins_a_text(tmp_path):
    # No model reads padding: Llama's, which has none, is as good as another.
    assert train_model(tmp_path, bos_id=1, pad_id=-1).pad_id == 1


def test_a_model_that_does_not_end_texts_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"small\.model has no eos token"):
        train_model(tmp_path, eos_id=-1)


def test_tokens_beyond_the_vocabulary_have_no_text(vocabulary):
    assert vocabulary.decode([*vocabulary.encode(TEXT), 4096, 5000]) == TEXT


def test_what_is_not_embedded_is_refused_with_what_is():
    with pytest.raises(FileNotFoundError, match="embedded:minipile"):
        embedded.resolve("embedded:maxipile")


def train_model(folder, **options):
    """Trains a small model, one that is not lossless unless `options` make it so."""
    text = ["the cat sat on the mat", "a dog ate the log", "lo and behold"] * 9
    defaults = {"vocab_size": 300, "byte_fallback": True, "pad_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "small"),
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
        **(defaults | options),
    )
    return Vocabulary.open(folder / "small.model")


IDENTITY = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}


@pytest.mark.parametrize(
    "change",
    [
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"normalization_rule_name": "nmt_nfkc"},
        {"byte_fallback": False, "vocab_size": 60},
    ],
)
def test_a_model_that_changes_texts_is_known_and_asked_for_them_whole(change, tmp_path):
    vocabulary = train_model(tmp_path, **(IDENTITY | change))
    assert not vocabulary.is_lossless
    text = "a \u2581cat  sat " * 6_000
    assert vocabulary.encode(text) == vocabulary.codec.processor.encode(text)


def test_a_model_that_changes_nothing_is_known(vocabulary, tmp_path):
    assert vocabulary.is_lossless
    assert train_model(tmp_path, **IDENTITY).is_lossless


SENTINELS = tuple(f"<extra_id_{index}>" for index in range(150))


@pytest.fixture
def extended(vocabulary, tmp_path):
    path = tmp_path / "more.model"
    path.write_bytes(vocabulary.add_control_pieces(SENTINELS))
    return Vocabulary.open(path)


def test_control_pieces_are_added_at_the_end_and_nothing_else_moves(
    extended, vocabulary
):
    ids = [extended.piece_id(name) for name in SENTINELS]
    assert ids == list(range(vocabulary.size, extended.size))
    assert all(extended.codec.processor.is_control(token) for token in ids)
    assert (extended.pad_id, extended.eos_id) == (vocabulary.pad_id, vocabulary.eos_id)
    assert extended.encode(TEXT) == vocabulary.encode(TEXT)


def test_text_that_names_a_control_piece_is_text(extended):
    text = f"{SENTINELS[0]} and {SENTINELS[149]}{SENTINELS[1]}</s><pad>"
    tokens = extended.encode(text)
    assert max(tokens) < extended.piece_id(SENTINELS[0])
    assert extended.decode([extended.piece_id(SENTINELS[2]), *tokens]) == text


def test_control_pieces_have_no_bytes(extended):
    ids = [extended.piece_id(name) for name in SENTINELS]
    assert not extended.byte_lengths()[ids].any()


def test_a_long_name_of_a_control_piece_is_kept(vocabulary, tmp_path):
    name = "<" + "\u00e9" * 300 + ">"
    path = tmp_path / "long.model"
    path.write_bytes(vocabulary.add_control_pieces([name]))
    assert Vocabulary.open(path).piece_id(name) == vocabulary.size


def test_a_piece_that_the_vocabulary_lacks_is_refused_by_name(vocabulary):
    with pytest.raises(ValueError, match=r"has no piece .<extra_id_0>.*--sentinels"):
        vocabulary.piece_id("<extra_id_0>")


@pytest.mark.parametrize("names", [["</s>"], ["<a>", "<a>"]])
def test_a_piece_is_not_added_twice(names, vocabulary):
    with pytest.raises(ValueError, match=rf"the piece '{names[0]}' twice"):
        vocabulary.add_control_pieces(names)


def test_the_added_bytes_are_those_of_the_library_s_own_format(vocabulary):
    # The library writes the model that it read back out: it knows every field.
    contents = vocabulary.add_control_pieces(["<b>"])
    processor = sentencepiece.SentencePieceProcessor(model_proto=contents)
    assert processor.get_score(vocabulary.size) == 0.0
    assert len(processor.serialized_model_proto()) == len(contents)
    assert contents.startswith(pathlib.Path(vocabulary.path).read_bytes())


@pytest.mark.parametrize("num_predicted", [4096, 5000])
def test_a_model_may_predict_more_tokens_than_the_vocabulary_has(
    num_predicted, vocabulary, caplog
):
    with caplog.at_level("INFO"):
        vocabulary.check_model(num_predicted)
    said = [record.getMessage() for record in caplog.records]
    assert [("predicts 5000 tokens" in x) for x in said] == [True] * len(said)
    assert len(said) == (num_predicted > 4096)


def test_a_model_that_predicts_fewer_tokens_is_refused_with_both_numbers():
    vocabulary = Vocabulary.open("embedded:tokenizer/spm_4k.model")
    with pytest.raises(ValueError, match=r"has 4,096 tokens, .* vocab_size=4,095"):
        vocabulary.check_model(4095)


@pytest.mark.parametrize("size", [4095, 4097])
def test_another_size_than_the_vocabularys_is_refused_with_both(vocabulary, size):
    vocabulary.check_real_size(None)
    vocabulary.check_real_size(4096)
    with pytest.raises(ValueError, match=rf"real_vocab_size={size}.* has 4096 tokens"):
        vocabulary.check_real_size(size)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_model_that_is_cut_off_is_refused_by_its_file(share, tmp_path):
    whole = embedded.resolve("embedded:tokenizer/spm_4k.model").read_bytes()
    path = tmp_path / "cut.model"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut.model is not a SentencePiece model"):
        Vocabulary.open(path)


def test_a_model_that_is_cut_off_between_two_pieces_is_refused_too(tmp_path):
    model = sentencepiece_model_pb2.ModelProto.FromString(
        embedded.resolve("embedded:tokenizer/spm_4k.model").read_bytes()
    )
    model.ClearField("trainer_spec")
    model.ClearField("normalizer_spec")
    (tmp_path / "cut.model").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"cut.model .* cut off"):
        Vocabulary.open(tmp_path / "cut.model")
