import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation.detokenization import Detokenizer, check_stop
from tests import runs

VOCABULARY = Vocabulary.open(runs.VOCABULARY)
FEW = st.characters(codec="utf-8") | st.sampled_from("ab \n\u2603")
TEXTS = st.text(FEW, max_size=24)
STOPS = st.lists(st.text("ab \n\u2603", min_size=1, max_size=4), max_size=3)


def follows(prompt="", stop=()):
    return Detokenizer(VOCABULARY, VOCABULARY.encode(prompt), stop)


def byte_tokens(text):
    return [VOCABULARY.piece_id(f"<0x{byte:02X}>") for byte in text.encode()]


def read_by_character(text, stop):
    """The text before a stop string, as one that reads it letter by letter finds it."""
    for end in range(1, len(text) + 1):
        complete = [x for x in stop if text[:end].endswith(x)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(TEXTS, TEXTS, STOPS)
def test_a_text_ends_before_the_stop_string_that_is_complete_first(prompt, text, stop):
    tokens = VOCABULARY.encode(text)
    assert follows(prompt, stop).text(tokens) == read_by_character(text, stop)


@given(TEXTS.map(lambda text: text.replace("\ufffd", "")), STOPS, st.booleans())
def test_what_is_settled_is_never_taken_back(text, stop, by_bytes):
    tokens = byte_tokens(text) if by_bytes else VOCABULARY.encode(text)
    continuation = follows("", stop)
    settled = [continuation.settled_text(tokens[:n]) for n in range(len(tokens) + 1)]
    for earlier, later in itertools.pairwise(settled):
        assert later.startswith(earlier)
    assert continuation.text(tokens).startswith(settled[-1])


@given(TEXTS, STOPS)
def test_tokens_are_those_wholly_before_the_stop_string(text, stop):
    tokens = VOCABULARY.encode(text)
    continuation = follows("", stop)
    kept = continuation.tokens(tokens)
    assert kept == tokens[: len(kept)]
    until = continuation.text(tokens)
    assert until.startswith(VOCABULARY.decode(kept))
    if len(kept) < len(tokens):
        assert not until.startswith(VOCABULARY.decode(tokens[: len(kept) + 1]))


def test_half_a_character_and_half_a_stop_string_are_not_settled():
    snowman = byte_tokens("a\u2603")
    settled = [follows().settled_text(snowman[:n]) for n in range(1, 5)]
    assert settled == ["a", "a", "a", "a\u2603"]
    letters = byte_tokens("a-b--c")
    settled = [follows("", ["--"]).settled_text(letters[:n]) for n in range(1, 7)]
    assert settled == ["a", "a", "a-b", "a-b", "a-b", "a-b"]


def test_the_space_that_a_text_begins_with_is_kept():
    class NoSpaceInFront:
        """Drops the space of the first token, as Llama's vocabulary does."""

        def decode(self, ids):
            return VOCABULARY.decode(ids).removeprefix(" ")

    prompt, tokens = VOCABULARY.encode("The city"), VOCABULARY.encode(" of")
    assert Detokenizer(NoSpaceInFront(), prompt).text(tokens) == " of"


@pytest.mark.parametrize("stop", ["text", [""], ["a", ""]])
def test_stop_strings_that_are_none_are_refused(stop):
    with pytest.raises(ValueError, match="is not a list of nonempty strings"):
        check_stop(stop)
