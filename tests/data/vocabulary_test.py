import numpy as np
import pytest

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


def test_what_is_not_embedded_is_refused_with_what_is():
    with pytest.raises(FileNotFoundError, match="embedded:minipile"):
        embedded.resolve("embedded:maxipile")
